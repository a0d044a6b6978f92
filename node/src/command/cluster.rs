//! How client commands reach a cluster.

use std::{future::Future, time::Duration};

use clap::Args;
use kauri_client::{
    admin::{AdminError, TopicDescription},
    cluster::ClusterConfig,
    tokio::admin,
};
use kauri_core::config::Endpoint;
use kauri_protocol::error::ErrorCode;
use tokio::runtime::Builder;

use super::failure::Failure;

/// The flags that all client commands have.
#[derive(Clone, Debug, Args)]
pub(super) struct Cluster {
    /// Where to reach the cluster; one node that answers is enough
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', default_value = "127.0.0.1:9092")]
    bootstrap: Vec<Endpoint>,
    /// How long to try before giving up
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
}

impl Cluster {
    pub(super) fn config(&self) -> ClusterConfig {
        let bootstrap = self.bootstrap.iter().map(|endpoint| (endpoint.host.clone(), endpoint.port)).collect();
        ClusterConfig::new(bootstrap, "kauri")
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }

    /// To be called within a runtime.
    pub(super) fn admin(&self) -> admin::Handle {
        admin::Handle::start(self.config(), self.timeout())
    }

    /// A topic that must exist.
    pub(super) async fn topic(&self, name: &str) -> Result<TopicDescription, Failure> {
        let missing = || Failure::NoTopic(name.to_owned());
        let failure = |error| Failure::Topic { action: "found", topic: name.to_owned(), error };
        let mut topics = self.admin().describe_topics([name]).await.map_err(failure)?;
        topics.remove(name).ok_or_else(missing)?.map_err(|error| match error {
            AdminError::Refused { error: ErrorCode::UnknownTopicOrPartition, .. } => missing(),
            error @ (AdminError::Refused { .. } | AdminError::TimedOut { .. } | AdminError::Unsendable(_)) => {
                failure(error)
            }
        })
    }
}

/// Runs a client command.
pub(super) fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Failure::System)?;
    let result = runtime.block_on(command);
    // Whatever still waits, for example for standard input, is not waited for.
    runtime.shutdown_background();
    result
}
