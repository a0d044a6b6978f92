//! Administration for tokio.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::tokio::sync::oneshot;
use kauri_protocol::wire::Str;

use super::driver::{Machine, Owner, Shared};
use crate::{
    admin::{
        Admin, AdminAnswer, AdminError, ClusterDescription, ConfigEntry, ConfigResource, CreatedTopic, NewTopic,
        OperationId, TopicDescription,
    },
    cluster::ClusterConfig,
    io::{Effects, Input, Monotonic, Now},
    offsets::{OffsetAt, SearchResult},
};

#[derive(Debug)]
struct AdminTask {
    admin: Admin,
    waiting: BTreeMap<OperationId, oneshot::Sender<Result<AdminAnswer, AdminError>>>,
}

impl Machine for AdminTask {
    fn handle(&mut self, now: Now, input: Input) {
        self.admin.handle(now, input);
    }

    fn poll(&mut self, now: Now, effects: &mut Effects) {
        self.admin.poll(now, effects);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        self.admin.next_deadline()
    }

    fn wake_waiters(&mut self) {
        while let Some((id, result)) = self.admin.next_result() {
            if let Some(waiter) = self.waiting.remove(&id) {
                // Whoever dropped the future does not want to know.
                let _ = waiter.send(result);
            }
        }
    }

    fn end(&mut self) {
        self.waiting.clear();
    }

    fn may_end(&mut self, _: Now) -> bool {
        true
    }
}

/// Administers a cluster; see [`Admin`] for what the methods mean. Each call ends after `timeout` at the latest.
#[derive(Clone, Debug)]
pub struct Handle {
    task: Arc<Owner<AdminTask>>,
    timeout: Duration,
}

/// What each topic's result is.
pub type TopicResults<T> = BTreeMap<Str, Result<T, AdminError>>;

impl Handle {
    /// Starts on the current runtime; panics outside of one.
    #[must_use]
    pub fn start(cluster: ClusterConfig, timeout: Duration) -> Self {
        let task = AdminTask { admin: Admin::new(cluster), waiting: BTreeMap::new() };
        Self { task: Arc::new(Shared::start(task)), timeout }
    }

    /// See [`Admin::create_topics`].
    pub async fn create_topics(
        &self,
        topics: impl IntoIterator<Item = NewTopic>,
        validate_only: bool,
    ) -> Result<TopicResults<CreatedTopic>, AdminError> {
        match self.run(|admin, now, timeout| admin.create_topics(now, topics, validate_only, timeout)).await? {
            AdminAnswer::Created(created) => Ok(created),
            other => unexpected(&other),
        }
    }

    /// See [`Admin::delete_topics`].
    pub async fn delete_topics<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<TopicResults<()>, AdminError> {
        match self.run(|admin, now, timeout| admin.delete_topics(now, names, timeout)).await? {
            AdminAnswer::Deleted(deleted) => Ok(deleted),
            other => unexpected(&other),
        }
    }

    /// See [`Admin::list_topics`].
    pub async fn list_topics(&self) -> Result<TopicResults<TopicDescription>, AdminError> {
        match self.run(|admin, now, timeout| admin.list_topics(now, timeout)).await? {
            AdminAnswer::Topics(topics) => Ok(topics),
            other => unexpected(&other),
        }
    }

    /// See [`Admin::describe_topics`].
    pub async fn describe_topics<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<TopicResults<TopicDescription>, AdminError> {
        match self.run(|admin, now, timeout| admin.describe_topics(now, names, timeout)).await? {
            AdminAnswer::Topics(topics) => Ok(topics),
            other => unexpected(&other),
        }
    }

    /// See [`Admin::describe_configs`].
    pub async fn describe_configs(&self, resource: ConfigResource) -> Result<BTreeMap<Str, ConfigEntry>, AdminError> {
        match self.run(|admin, now, timeout| admin.describe_configs(now, resource, timeout)).await? {
            AdminAnswer::Configs(configs) => Ok(configs),
            other => unexpected(&other),
        }
    }

    /// See [`Admin::describe_cluster`].
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, AdminError> {
        match self.run(|admin, now, timeout| admin.describe_cluster(now, timeout)).await? {
            AdminAnswer::Cluster(cluster) => Ok(cluster),
            other => unexpected(&other),
        }
    }

    /// See [`Admin::list_offsets`].
    pub async fn list_offsets<'a>(
        &self,
        partitions: impl IntoIterator<Item = (&'a str, i32, OffsetAt)>,
    ) -> Result<BTreeMap<(Str, i32), SearchResult>, AdminError> {
        match self.run(|admin, now, timeout| admin.list_offsets(now, partitions, timeout)).await? {
            AdminAnswer::Offsets(offsets) => Ok(offsets),
            other => unexpected(&other),
        }
    }

    async fn run(
        &self,
        start: impl FnOnce(&mut Admin, Now, Duration) -> OperationId,
    ) -> Result<AdminAnswer, AdminError> {
        let (sender, receiver) = oneshot::channel();
        self.task.with(|task, now| {
            let id = start(&mut task.admin, now, self.timeout);
            task.waiting.insert(id, sender);
        });
        self.task.wake();
        let gone = || AdminError::TimedOut { last: "the client's task is gone".to_owned() };
        receiver.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn unexpected(answer: &AdminAnswer) -> ! {
    unreachable!("an operation ends with its own kind of answer, not with {answer:?}")
}
