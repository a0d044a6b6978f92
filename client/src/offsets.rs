//! Finds offsets: the ends of partitions, and the first record at or after a time (ListOffsets).
//!
//! Owns searches in progress and the calls made for them. Invariant: every search ends exactly once, unless it is
//! cancelled. A search asks the partition's leader, again and again while the error may pass, until its time is over.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use kauri_protocol::{
    error::ErrorCode,
    messages::{
        ListOffsetsRequest, ListOffsetsResponse, Response,
        list_offsets::{
            EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsTopic,
            MAX_TIMESTAMP,
        },
    },
    wire::Str,
};

use crate::{
    cluster::{CallError, CallId, Cluster, Target},
    connection::SendError,
    io::{Monotonic, Now},
};

/// How long to wait after an error that may pass.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What to find in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OffsetAt {
    /// The oldest record that is kept.
    Earliest,
    /// The end: the offset that the next record gets, or the last stable offset when reading committed records.
    Latest,
    /// The first record whose timestamp is at or after this one, in milliseconds since 1970; must not be negative.
    Timestamp(i64),
    /// The record with the largest timestamp.
    MaxTimestamp,
}

impl OffsetAt {
    fn code(self) -> i64 {
        match self {
            Self::Earliest => EARLIEST_TIMESTAMP,
            Self::Latest => LATEST_TIMESTAMP,
            Self::Timestamp(timestamp) => timestamp.max(0),
            Self::MaxTimestamp => MAX_TIMESTAMP,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    pub offset: i64,
    /// Of the record, if a record was searched for.
    pub timestamp: Option<i64>,
    pub leader_epoch: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffsetError {
    #[error(transparent)]
    Refused(ErrorCode),
    #[error("the offset was not found in time: {last}")]
    TimedOut { last: String },
    #[error(transparent)]
    Unsendable(#[from] SendError),
}

/// A search in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SearchId(pub u64);

/// What a search found; `None` if no record is as young as the timestamp.
pub type SearchResult = Result<Option<FoundOffset>, OffsetError>;

#[derive(Debug)]
struct Search {
    topic: Str,
    partition: i32,
    at: OffsetAt,
    deadline: Option<Monotonic>,
    not_before: Monotonic,
    asked: bool,
    last: String,
}

/// See the module head.
#[derive(Debug, Default)]
pub struct Offsets {
    /// 0 is read uncommitted, 1 is read committed.
    isolation_level: i8,
    searches: BTreeMap<SearchId, Search>,
    calls: BTreeMap<CallId, Vec<SearchId>>,
    done: VecDeque<(SearchId, SearchResult)>,
    next_id: u64,
    polled: Monotonic,
}

impl Offsets {
    pub fn new(read_committed: bool) -> Self {
        Self { isolation_level: i8::from(read_committed), ..Self::default() }
    }

    /// Starts a search. Without a timeout it goes on until an error is final.
    pub fn search(
        &mut self,
        now: Now,
        topic: &Str,
        partition: i32,
        at: OffsetAt,
        timeout: Option<Duration>,
    ) -> SearchId {
        let id = SearchId(self.next_id);
        self.next_id += 1;
        self.searches.insert(
            id,
            Search {
                topic: topic.clone(),
                partition,
                at,
                deadline: timeout.map(|timeout| now.monotonic + timeout),
                not_before: Monotonic::default(),
                asked: false,
                last: "the partition's leader is not known".to_owned(),
            },
        );
        id
    }

    pub fn cancel(&mut self, id: SearchId) {
        self.searches.remove(&id);
        self.done.retain(|(done, _)| *done != id);
    }

    /// Why a search in progress has found nothing yet, for people.
    pub fn last_failure(&self, id: SearchId) -> Option<&str> {
        self.searches.get(&id).map(|search| search.last.as_str())
    }

    pub fn next_result(&mut self) -> Option<(SearchId, SearchResult)> {
        self.done.pop_front()
    }

    /// Makes the calls that are due; the cluster's `poll` comes after it.
    pub fn poll(&mut self, now: Now, cluster: &mut Cluster) {
        self.polled = now.monotonic;
        let late = |search: &Search| search.deadline.is_some_and(|at| at <= now.monotonic);
        let ended: Vec<SearchId> = self.searches.iter().filter(|(_, search)| late(search)).map(|(id, _)| *id).collect();
        for id in ended {
            let search = self.searches.remove(&id).expect("it was just found");
            self.done.push_back((id, Err(OffsetError::TimedOut { last: search.last })));
        }
        let mut plans: BTreeMap<i32, Plan> = BTreeMap::new();
        for (&id, search) in &mut self.searches {
            if search.asked || search.not_before > now.monotonic {
                continue;
            }
            cluster.want_topic(&search.topic);
            let Some(leader) = cluster.metadata().leader(&search.topic, search.partition) else {
                if let Some(topic) = cluster.metadata().topics.get(&search.topic)
                    && topic.error.is_error()
                {
                    search.last = topic.error.to_string();
                }
                search.not_before = now.monotonic + RETRY_PAUSE;
                cluster.refresh_metadata();
                continue;
            };
            if !cluster.prepare(leader) {
                search.last = format!("its leader, node {leader}, is not reached: {}", cluster.last_failure());
                continue;
            }
            let plan = plans.entry(leader).or_default();
            // A request names a partition once.
            if plan.places.insert((search.topic.clone(), search.partition)) {
                plan.topics.entry(search.topic.clone()).or_default().push(ListOffsetsPartition {
                    partition_index: search.partition,
                    timestamp: search.at.code(),
                    ..Default::default()
                });
                plan.ids.push(id);
                search.asked = true;
            }
        }
        for (leader, plan) in plans {
            let request = ListOffsetsRequest {
                isolation_level: self.isolation_level,
                topics: plan
                    .topics
                    .into_iter()
                    .map(|(name, partitions)| ListOffsetsTopic { name, partitions })
                    .collect(),
                ..Default::default()
            };
            let call = cluster.call(now, Target::Node(leader), request);
            self.calls.insert(call, plan.ids);
        }
    }

    pub fn next_deadline(&self) -> Option<Monotonic> {
        let of = |search: &Search| {
            let pause = Some(search.not_before).filter(|at| !search.asked && *at > self.polled);
            [search.deadline, pause].into_iter().flatten().min()
        };
        self.searches.values().filter_map(of).min()
    }

    /// Takes an answer if it belongs to a search, else gives it back.
    pub fn take_answer(
        &mut self,
        now: Now,
        cluster: &mut Cluster,
        call: CallId,
        answer: Result<Response, CallError>,
    ) -> Option<Result<Response, CallError>> {
        let Some(ids) = self.calls.remove(&call) else { return Some(answer) };
        match answer {
            Ok(Response::ListOffsets(response)) => self.take_response(now, cluster, &ids, response),
            Ok(_) => unreachable!("a response is decoded as its request's API"),
            Err(CallError::Send(error)) => {
                ids.into_iter().for_each(|id| self.finish(id, Err(error.clone().into())));
            }
            Err(error @ (CallError::Disconnected | CallError::TimedOut | CallError::Unreachable(_))) => {
                ids.into_iter().for_each(|id| self.try_again(now, id, error.to_string()));
            }
        }
        None
    }

    fn take_response(&mut self, now: Now, cluster: &mut Cluster, ids: &[SearchId], response: ListOffsetsResponse) {
        let mut answers: BTreeMap<(Str, i32), ListOffsetsPartitionResponse> = BTreeMap::new();
        for topic in response.topics {
            for partition in topic.partitions {
                answers.insert((topic.name.clone(), partition.partition_index), partition);
            }
        }
        for &id in ids {
            // Not there if it was cancelled or its time is over.
            let Some(search) = self.searches.get(&id) else { continue };
            let Some(answer) = answers.get(&(search.topic.clone(), search.partition)) else {
                self.try_again(now, id, "the broker left the partition out".to_owned());
                continue;
            };
            match answer.error_code {
                ErrorCode::None => {
                    let known = |value: i64| Some(value).filter(|value| *value >= 0);
                    let found = known(answer.offset).map(|offset| FoundOffset {
                        offset,
                        timestamp: known(answer.timestamp),
                        leader_epoch: Some(answer.leader_epoch).filter(|epoch| *epoch >= 0),
                    });
                    self.finish(id, Ok(found));
                }
                error if error.is_retriable() => {
                    cluster.refresh_metadata();
                    self.try_again(now, id, error.to_string());
                }
                error => self.finish(id, Err(OffsetError::Refused(error))),
            }
        }
    }

    fn finish(&mut self, id: SearchId, result: SearchResult) {
        if self.searches.remove(&id).is_some() {
            self.done.push_back((id, result));
        }
    }

    fn try_again(&mut self, now: Now, id: SearchId, last: String) {
        if let Some(search) = self.searches.get_mut(&id) {
            search.asked = false;
            search.not_before = now.monotonic + RETRY_PAUSE;
            search.last = last;
        }
    }
}

/// What goes into one request.
#[derive(Debug, Default)]
struct Plan {
    topics: BTreeMap<Str, Vec<ListOffsetsPartition>>,
    places: BTreeSet<(Str, i32)>,
    ids: Vec<SearchId>,
}
