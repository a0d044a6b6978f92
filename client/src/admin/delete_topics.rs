//! Deletes topics. Each topic is asked for again until it is deleted, refused, or the time is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kauri_protocol::{
    error::ErrorCode,
    messages::{DeleteTopicsRequest, DeleteTopicsResponse, delete_topics::DeleteTopicState},
    wire::Str,
};

use super::{AdminError, milliseconds};

#[derive(Debug)]
pub(super) struct DeleteTopics {
    pub(super) open: BTreeSet<Str>,
    pub(super) done: BTreeMap<Str, Result<(), AdminError>>,
    /// Topics that an attempt without an answer may have deleted.
    pub(super) uncertain: BTreeSet<Str>,
    /// Whether brokers read `topic_names`, which version 6 replaced.
    pub(super) by_name_list: bool,
}

impl DeleteTopics {
    pub(super) fn request(&self, timeout: Duration) -> DeleteTopicsRequest {
        let names = || self.open.iter().cloned();
        let states = || names().map(|name| DeleteTopicState { name: Some(name), ..Default::default() });
        DeleteTopicsRequest {
            topics: if self.by_name_list { Vec::new() } else { states().collect() },
            topic_names: if self.by_name_list { names().collect() } else { Vec::new() },
            timeout_ms: milliseconds(timeout),
        }
    }

    /// Returns the last error that may pass.
    pub(super) fn take(&mut self, response: DeleteTopicsResponse) -> Option<ErrorCode> {
        let mut last = None;
        for topic in response.responses {
            let Some(name) = topic.name.as_ref().map(Str::detached).filter(|name| self.open.contains(name)) else {
                continue;
            };
            let result = match topic.error_code {
                ErrorCode::None => Ok(()),
                // Retriable elsewhere, where it may mean that a broker is behind.
                error @ ErrorCode::UnknownTopicOrPartition => {
                    let message = self
                        .uncertain
                        .contains(&name)
                        .then_some(Str::from_static("an earlier attempt of this call may have deleted it"));
                    Err(AdminError::Refused { error, message })
                }
                error if error.is_retriable() => {
                    if error == ErrorCode::RequestTimedOut {
                        self.uncertain.insert(name);
                    }
                    last = Some(error);
                    continue;
                }
                error => Err(AdminError::Refused { error, message: topic.error_message.as_ref().map(Str::detached) }),
            };
            self.open.remove(&name);
            self.done.insert(name, result);
        }
        last
    }
}
