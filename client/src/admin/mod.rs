//! Administration: topics, configurations, the cluster, offsets.
//!
//! Owns the operations in progress. Invariant: every operation ends exactly once, at its deadline at the latest. An
//! operation is tried again after an error that may pass; that is safe for all of them, but what an attempt without an
//! answer did shows as "exists already" or "does not exist", and the message then says so.

mod create_topics;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_topics;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use kauri_protocol::{
    error::ErrorCode,
    messages::{DescribeClusterRequest, Request, Response},
    wire::Str,
};

use self::{
    create_topics::CreateTopics, delete_topics::DeleteTopics, describe_configs::DescribeConfigs,
    describe_topics::DescribeTopics,
};
pub use self::{
    create_topics::{CreatedTopic, NewTopic},
    describe_cluster::ClusterDescription,
    describe_configs::{ConfigEntry, ConfigResource},
    describe_topics::{PartitionDescription, TopicDescription},
};
use crate::{
    cluster::{CallError, CallId, Cluster, ClusterConfig, Target},
    connection::SendError,
    io::{Effects, Input, Monotonic, Now},
    offsets::{OffsetAt, Offsets, SearchId, SearchResult},
};

/// How long to wait after an error that may pass.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The broker's own sentence says more than the one that every error of its code has.
    #[error("{}", match .message { Some(message) => format!("{} ({}): {message}", error.name(), error.code()), None => error.to_string() })]
    Refused { error: ErrorCode, message: Option<Str> },
    #[error("not done in time: {last}")]
    TimedOut { last: String },
    #[error(transparent)]
    Unsendable(#[from] SendError),
}

/// An operation in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAnswer {
    Created(BTreeMap<Str, Result<CreatedTopic, AdminError>>),
    Deleted(BTreeMap<Str, Result<(), AdminError>>),
    Topics(BTreeMap<Str, Result<TopicDescription, AdminError>>),
    Configs(BTreeMap<Str, ConfigEntry>),
    Cluster(ClusterDescription),
    Offsets(BTreeMap<(Str, i32), SearchResult>),
}

#[derive(Debug)]
struct Operation {
    task: Task,
    deadline: Monotonic,
    not_before: Monotonic,
    call: Option<CallId>,
    last: String,
}

#[derive(Debug)]
enum Task {
    CreateTopics(CreateTopics),
    DeleteTopics(DeleteTopics),
    DescribeTopics(DescribeTopics),
    DescribeConfigs(DescribeConfigs),
    DescribeCluster,
    ListOffsets { open: BTreeMap<SearchId, (Str, i32)>, done: BTreeMap<(Str, i32), SearchResult> },
}

/// What an answer means for its operation.
enum Progress {
    Done(Result<AdminAnswer, AdminError>),
    Again(String),
}

/// See the module head.
#[derive(Debug)]
pub struct Admin {
    cluster: Cluster,
    offsets: Offsets,
    operations: BTreeMap<OperationId, Operation>,
    results: VecDeque<(OperationId, Result<AdminAnswer, AdminError>)>,
    next_id: u64,
    polled: Monotonic,
}

impl Admin {
    pub fn new(cluster: ClusterConfig) -> Self {
        Self {
            cluster: Cluster::new(cluster),
            offsets: Offsets::new(false),
            operations: BTreeMap::new(),
            results: VecDeque::new(),
            next_id: 0,
            polled: Monotonic::default(),
        }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Ends with [`AdminAnswer::Created`], a result for each topic. With `validate_only` nothing is created.
    pub fn create_topics(
        &mut self,
        now: Now,
        topics: impl IntoIterator<Item = NewTopic>,
        validate_only: bool,
        timeout: Duration,
    ) -> OperationId {
        let open = topics.into_iter().map(|topic| (Str::from(&topic.name), topic)).collect();
        let task = CreateTopics { validate_only, open, done: BTreeMap::new(), uncertain: BTreeSet::new() };
        self.start(now, Task::CreateTopics(task), timeout)
    }

    /// Ends with [`AdminAnswer::Deleted`], a result for each topic.
    pub fn delete_topics<'a>(
        &mut self,
        now: Now,
        names: impl IntoIterator<Item = &'a str>,
        timeout: Duration,
    ) -> OperationId {
        let task = DeleteTopics {
            open: names.into_iter().map(Str::from).collect(),
            done: BTreeMap::new(),
            uncertain: BTreeSet::new(),
            by_name_list: false,
        };
        self.start(now, Task::DeleteTopics(task), timeout)
    }

    /// Ends with [`AdminAnswer::Topics`], all topics.
    pub fn list_topics(&mut self, now: Now, timeout: Duration) -> OperationId {
        self.start(now, Task::DescribeTopics(DescribeTopics { names: None, done: BTreeMap::new() }), timeout)
    }

    /// Ends with [`AdminAnswer::Topics`], the named ones.
    pub fn describe_topics<'a>(
        &mut self,
        now: Now,
        names: impl IntoIterator<Item = &'a str>,
        timeout: Duration,
    ) -> OperationId {
        let names = Some(names.into_iter().map(Str::from).collect());
        self.start(now, Task::DescribeTopics(DescribeTopics { names, done: BTreeMap::new() }), timeout)
    }

    /// Ends with [`AdminAnswer::Configs`].
    pub fn describe_configs(&mut self, now: Now, resource: ConfigResource, timeout: Duration) -> OperationId {
        self.start(now, Task::DescribeConfigs(DescribeConfigs { resource }), timeout)
    }

    /// Ends with [`AdminAnswer::Cluster`].
    pub fn describe_cluster(&mut self, now: Now, timeout: Duration) -> OperationId {
        self.start(now, Task::DescribeCluster, timeout)
    }

    /// Ends with [`AdminAnswer::Offsets`], a result for each partition.
    pub fn list_offsets<'a>(
        &mut self,
        now: Now,
        partitions: impl IntoIterator<Item = (&'a str, i32, OffsetAt)>,
        timeout: Duration,
    ) -> OperationId {
        let open = partitions.into_iter().map(|(topic, partition, at)| {
            let topic = Str::from(topic);
            (self.offsets.search(now, &topic, partition, at, Some(timeout)), (topic, partition))
        });
        let open: BTreeMap<SearchId, (Str, i32)> = open.collect();
        let nothing = open.is_empty();
        let id = self.start(now, Task::ListOffsets { open, done: BTreeMap::new() }, timeout);
        if nothing {
            self.operations.remove(&id);
            self.results.push_back((id, Ok(AdminAnswer::Offsets(BTreeMap::new()))));
        }
        id
    }

    /// An operation that ended.
    pub fn next_result(&mut self) -> Option<(OperationId, Result<AdminAnswer, AdminError>)> {
        self.results.pop_front()
    }

    pub fn handle(&mut self, now: Now, input: Input) {
        self.cluster.handle(now, input);
    }

    /// To be called after every other call that changes something, and at [`Admin::next_deadline`].
    pub fn poll(&mut self, now: Now, effects: &mut Effects) {
        self.polled = now.monotonic;
        self.cluster.poll(now, effects);
        self.take_answers(now);
        self.offsets.poll(now, &mut self.cluster);
        self.take_found();
        let ids: Vec<OperationId> = self.operations.keys().copied().collect();
        for id in ids {
            self.advance(now, id);
        }
        self.cluster.poll(now, effects);
        self.take_answers(now);
    }

    pub fn next_deadline(&self) -> Option<Monotonic> {
        let of = |operation: &Operation| {
            let pause = Some(operation.not_before).filter(|at| operation.call.is_none() && *at > self.polled);
            pause.map_or(operation.deadline, |pause| pause.min(operation.deadline))
        };
        let operations = self.operations.values().map(of).min();
        [self.cluster.next_deadline(), self.offsets.next_deadline(), operations].into_iter().flatten().min()
    }

    fn start(&mut self, now: Now, task: Task, timeout: Duration) -> OperationId {
        let id = OperationId(self.next_id);
        self.next_id += 1;
        let operation = Operation {
            task,
            deadline: now.monotonic + timeout,
            not_before: Monotonic::default(),
            call: None,
            last: "no broker answered".to_owned(),
        };
        self.operations.insert(id, operation);
        id
    }

    /// Makes the operation's next call, or ends it if its time is over.
    fn advance(&mut self, now: Now, id: OperationId) {
        let operation = self.operations.get_mut(&id).expect("the caller took it from there");
        if operation.deadline <= now.monotonic {
            let operation = self.operations.remove(&id).expect("it was just there");
            self.results.push_back((id, operation.time_out()));
            return;
        }
        if operation.call.is_some() || operation.not_before > now.monotonic {
            return;
        }
        let left = operation.deadline.since(now.monotonic);
        let (target, request): (Target, Request) = match &operation.task {
            Task::CreateTopics(task) => match controller(&mut self.cluster) {
                Some(target) => (target, task.request(left).into()),
                None => return,
            },
            Task::DeleteTopics(task) => match controller(&mut self.cluster) {
                Some(target) => (target, task.request(left).into()),
                None => return,
            },
            Task::DescribeTopics(task) => (Target::Any, task.request().into()),
            Task::DescribeConfigs(task) => match task.resource {
                ConfigResource::Topic(_) => (Target::Any, task.request().into()),
                ConfigResource::Broker(node) => (Target::Node(node), task.request().into()),
            },
            Task::DescribeCluster => (Target::Any, DescribeClusterRequest::default().into()),
            Task::ListOffsets { .. } => return,
        };
        let timeout = left.min(self.cluster.config().request_timeout);
        operation.call = Some(self.cluster.call_within(now, target, request, timeout));
    }

    fn take_found(&mut self) {
        while let Some((search, result)) = self.offsets.next_result() {
            let mut ended = None;
            for (&id, operation) in &mut self.operations {
                if let Task::ListOffsets { open, done } = &mut operation.task
                    && let Some(place) = open.remove(&search)
                {
                    done.insert(place, result.clone());
                    if open.is_empty() {
                        ended = Some((id, std::mem::take(done)));
                    }
                    break;
                }
            }
            if let Some((id, offsets)) = ended {
                self.operations.remove(&id);
                self.results.push_back((id, Ok(AdminAnswer::Offsets(offsets))));
            }
        }
    }

    fn take_answers(&mut self, now: Now) {
        while let Some((call, answer)) = self.cluster.next_answer() {
            let Some(answer) = self.offsets.take_answer(now, &mut self.cluster, call, answer) else { continue };
            let asked = self.operations.iter_mut().find(|(_, operation)| operation.call == Some(call));
            // Its time may be over.
            let Some((&id, operation)) = asked else { continue };
            operation.call = None;
            match operation.take(answer) {
                Progress::Done(result) => {
                    self.operations.remove(&id);
                    self.results.push_back((id, result));
                }
                Progress::Again(last) => {
                    operation.last = last;
                    operation.not_before = now.monotonic + RETRY_PAUSE;
                    self.cluster.refresh_metadata();
                }
            }
        }
        self.take_found();
    }
}

/// Whom to ask for changes: the controller, once it is known and connected.
fn controller(cluster: &mut Cluster) -> Option<Target> {
    match cluster.metadata().controller {
        Some(node) => cluster.prepare(node).then_some(Target::Node(node)),
        // Metadata without a controller: any broker knows better than this client.
        None => Some(Target::Any),
    }
}

impl Operation {
    fn take(&mut self, answer: Result<Response, CallError>) -> Progress {
        let response = match answer {
            Ok(response) => response,
            Err(error) => return self.take_error(error),
        };
        match (&mut self.task, response) {
            (Task::CreateTopics(task), Response::CreateTopics(response)) => match task.take(response) {
                None if task.open.is_empty() => {
                    Progress::Done(Ok(AdminAnswer::Created(std::mem::take(&mut task.done))))
                }
                last => again(last),
            },
            (Task::DeleteTopics(task), Response::DeleteTopics(response)) => match task.take(response) {
                None if task.open.is_empty() => {
                    Progress::Done(Ok(AdminAnswer::Deleted(std::mem::take(&mut task.done))))
                }
                last => again(last),
            },
            (Task::DescribeTopics(task), Response::Metadata(response)) => match task.take(response) {
                Some(last) if task.names.is_some() => again(Some(last)),
                Some(_) | None => Progress::Done(Ok(AdminAnswer::Topics(std::mem::take(&mut task.done)))),
            },
            (Task::DescribeConfigs(task), Response::DescribeConfigs(response)) => match task.take(response) {
                None => again(None),
                Some(Ok(entries)) => Progress::Done(Ok(AdminAnswer::Configs(entries))),
                Some(Err(error)) => done_or_again(error),
            },
            (Task::DescribeCluster, Response::DescribeCluster(response)) => match describe_cluster::take(response) {
                Ok(description) => Progress::Done(Ok(AdminAnswer::Cluster(description))),
                Err(error) => done_or_again(error),
            },
            (_, _) => unreachable!("a response is decoded as its request's API"),
        }
    }

    fn take_error(&mut self, error: CallError) -> Progress {
        let sent = match &error {
            CallError::Send(error) => {
                if let (Task::DeleteTopics(task), SendError::Inexpressible(_)) = (&mut self.task, error)
                    && !task.by_name_list
                {
                    task.by_name_list = true;
                    return Progress::Again(error.to_string());
                }
                return Progress::Done(Err(error.clone().into()));
            }
            CallError::Disconnected | CallError::TimedOut => true,
            CallError::Unreachable(_) => false,
        };
        if sent {
            match &mut self.task {
                Task::CreateTopics(task) => task.uncertain.extend(task.open.keys().cloned()),
                Task::DeleteTopics(task) => task.uncertain.extend(task.open.iter().cloned()),
                Task::DescribeTopics(_)
                | Task::DescribeConfigs(_)
                | Task::DescribeCluster
                | Task::ListOffsets { .. } => {}
            }
        }
        Progress::Again(error.to_string())
    }

    /// What there is at the deadline.
    fn time_out(self) -> Result<AdminAnswer, AdminError> {
        let error = AdminError::TimedOut { last: self.last };
        match self.task {
            Task::CreateTopics(mut task) => {
                task.done.extend(task.open.into_keys().map(|name| (name, Err(error.clone()))));
                Ok(AdminAnswer::Created(task.done))
            }
            Task::DeleteTopics(mut task) => {
                task.done.extend(task.open.into_iter().map(|name| (name, Err(error.clone()))));
                Ok(AdminAnswer::Deleted(task.done))
            }
            Task::DescribeTopics(_) | Task::DescribeConfigs(_) | Task::DescribeCluster | Task::ListOffsets { .. } => {
                Err(error)
            }
        }
    }
}

fn again(last: Option<ErrorCode>) -> Progress {
    Progress::Again(last.map_or_else(|| "the broker's answer is not complete".to_owned(), |error| error.to_string()))
}

fn done_or_again(error: AdminError) -> Progress {
    match error {
        AdminError::Refused { error, .. } if error.is_retriable() && error != ErrorCode::UnknownTopicOrPartition => {
            Progress::Again(error.to_string())
        }
        AdminError::Refused { .. } | AdminError::TimedOut { .. } | AdminError::Unsendable(_) => {
            Progress::Done(Err(error))
        }
    }
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
