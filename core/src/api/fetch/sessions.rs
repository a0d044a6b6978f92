//! Incremental fetch sessions (KIP-227): a consumer of many partitions sends only what changes, and is told only what
//! changed.
//!
//! Invariant: a session's epoch advances by one with each request, so that a lost or repeated request is noticed; the
//! number of sessions, of partitions in them and of bytes in their names is bounded, and the session unused for longest gives
//! way. Losing a
//! session is always safe: the client starts another with a full request.

use std::collections::BTreeMap;

use kauri_protocol::{
    error::ErrorCode,
    messages::{FetchRequest, fetch::FetchPartition},
    wire::Str,
};

use crate::{
    limits::{FETCH_SESSION_NAME_BYTES_MAX, FETCH_SESSION_PARTITIONS_MAX, FETCH_SESSIONS_MAX},
    time::Monotonic,
};

/// Request wants no session, or ends the one it names.
const NO_SESSION: i32 = -1;
/// Request starts a session.
const FIRST: i32 = 0;

/// A session unused for this long may be evicted in favour of a new one, as in Kafka.
const EVICTABLE_AFTER: std::time::Duration = std::time::Duration::from_secs(120);

/// Which part of a topic a target is.
pub(super) type Place = (Str, i32);

/// One partition to fetch from.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) offset: i64,
    pub(super) leader_epoch: i32,
    pub(super) bytes_max: i32,
}

/// What a request turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Session {
    /// The answer names every partition and no session.
    None,
    /// The answer names every partition and the new session.
    Created(i32),
    /// The answer names what changed.
    Incremental(i32),
}

/// The sessions of all consumers of a node.
#[derive(Debug, Default)]
pub struct FetchSessions {
    sessions: BTreeMap<i32, State>,
    last_id: i32,
    size: Size,
}

/// What sessions hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    partitions: usize,
    /// Of the topics' names, once for each partition.
    name_bytes: usize,
}

impl Size {
    fn of(targets: &[Target]) -> Self {
        let name_bytes = targets.iter().map(|target| target.place.0.len()).sum();
        Self { partitions: targets.len(), name_bytes }
    }

    fn add(&mut self, other: Self) {
        self.partitions += other.partitions;
        self.name_bytes += other.name_bytes;
    }

    fn take_away(&mut self, other: Self) {
        self.partitions -= other.partitions;
        self.name_bytes -= other.name_bytes;
    }

    fn is_too_large(self) -> bool {
        self.partitions > FETCH_SESSION_PARTITIONS_MAX || self.name_bytes > FETCH_SESSION_NAME_BYTES_MAX
    }
}

#[derive(Debug)]
struct State {
    next_epoch: i32,
    used: Monotonic,
    targets: BTreeMap<Place, Known>,
    /// Partitions in the order in which they are read; those that gave records go to the end, for fairness.
    order: BTreeMap<u64, Place>,
    next_order: u64,
    size: Size,
}

#[derive(Debug)]
struct Known {
    order: u64,
    offset: i64,
    leader_epoch: i32,
    bytes_max: i32,
    /// What the client was told last; `None` before the first answer.
    told: Option<(i64, i64)>,
}

impl FetchSessions {
    /// Resolves a request into the partitions to read and the kind of answer.
    pub(super) fn open(
        &mut self,
        now: Monotonic,
        request: &mut FetchRequest,
    ) -> Result<(Session, Vec<Target>), ErrorCode> {
        let topics = std::mem::take(&mut request.topics);
        let in_session = request.session_epoch != NO_SESSION;
        let named = topics.into_iter().flat_map(move |topic| {
            // A session outlives the frame that its partitions were named in.
            let name = if in_session { topic.topic.detached() } else { topic.topic };
            topic.partitions.into_iter().map(move |partition| target(name.clone(), &partition))
        });
        if matches!(request.session_epoch, NO_SESSION | FIRST) {
            self.remove(request.session_id);
            let targets: Vec<Target> = named.collect();
            if request.session_epoch == NO_SESSION || !self.make_room(now, Size::of(&targets)) {
                return Ok((Session::None, targets));
            }
            return Ok((Session::Created(self.create(now, &targets)), targets));
        }
        let id = request.session_id;
        let state = self.sessions.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if request.session_epoch != state.next_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        state.next_epoch = state.next_epoch.checked_add(1).unwrap_or(1);
        state.used = now;
        let before = state.size;
        for target in named {
            state.put(target);
        }
        for topic in std::mem::take(&mut request.forgotten_topics_data) {
            for index in topic.partitions {
                state.forget(&(topic.topic.clone(), index));
            }
        }
        self.size.take_away(before);
        self.size.add(state.size);
        if self.size.is_too_large() {
            self.remove(id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        let state = &self.sessions[&id];
        let targets = state.order.values().map(|place| {
            let known = &state.targets[place];
            Target {
                place: place.clone(),
                offset: known.offset,
                leader_epoch: known.leader_epoch,
                bytes_max: known.bytes_max,
            }
        });
        Ok((Session::Incremental(id), targets.collect()))
    }

    /// Whether an incremental answer must name the partition. Remembers what it is told.
    pub(super) fn tell(
        &mut self,
        session: Session,
        place: &Place,
        has_news: bool,
        has_records: bool,
        ends: (i64, i64),
    ) -> bool {
        let (id, incremental) = match session {
            Session::None => return true,
            Session::Created(id) => (id, false),
            Session::Incremental(id) => (id, true),
        };
        // The session may have been evicted, or the partition forgotten by a later request, while this one waited.
        let Some(state) = self.sessions.get_mut(&id) else { return true };
        let Some(known) = state.targets.get_mut(place) else { return true };
        let changed = known.told != Some(ends);
        known.told = Some(ends);
        if has_records {
            state.order.remove(&known.order);
            known.order = state.next_order;
            state.order.insert(state.next_order, place.clone());
            state.next_order += 1;
        }
        !incremental || has_news || has_records || changed
    }

    fn create(&mut self, now: Monotonic, targets: &[Target]) -> i32 {
        let mut id = self.last_id;
        loop {
            // Positive, and not one that is in use: at most FETCH_SESSIONS_MAX are.
            id = id.checked_add(1).unwrap_or(1);
            if !self.sessions.contains_key(&id) {
                break;
            }
        }
        self.last_id = id;
        let mut state = State {
            next_epoch: 1,
            used: now,
            targets: BTreeMap::new(),
            order: BTreeMap::new(),
            next_order: 0,
            size: Size::default(),
        };
        for target in targets {
            state.put(target.clone());
        }
        self.size.add(state.size);
        self.sessions.insert(id, state);
        id
    }

    fn remove(&mut self, id: i32) {
        if let Some(state) = self.sessions.remove(&id) {
            self.size.take_away(state.size);
        }
    }

    /// Whether a session of this size may be created; evicts those that were not used for long if it takes that.
    fn make_room(&mut self, now: Monotonic, size: Size) -> bool {
        loop {
            let mut with_it = self.size;
            with_it.add(size);
            if self.sessions.len() < FETCH_SESSIONS_MAX && !with_it.is_too_large() {
                return true;
            }
            match self.sessions.iter().min_by_key(|(_, state)| state.used) {
                Some((&oldest, state)) if now.since(state.used) >= EVICTABLE_AFTER => self.remove(oldest),
                Some(_) | None => return false,
            }
        }
    }
}

impl State {
    fn put(&mut self, target: Target) {
        let order = self.next_order;
        let known = self.targets.entry(target.place.clone()).or_insert_with(|| {
            self.next_order += 1;
            self.size.add(Size { partitions: 1, name_bytes: target.place.0.len() });
            self.order.insert(order, target.place);
            Known { order, offset: 0, leader_epoch: -1, bytes_max: 0, told: None }
        });
        known.offset = target.offset;
        known.leader_epoch = target.leader_epoch;
        known.bytes_max = target.bytes_max;
    }

    fn forget(&mut self, place: &Place) {
        if let Some(known) = self.targets.remove(place) {
            self.order.remove(&known.order);
            self.size.take_away(Size { partitions: 1, name_bytes: place.0.len() });
        }
    }
}

fn target(topic: Str, partition: &FetchPartition) -> Target {
    Target {
        place: (topic, partition.partition),
        offset: partition.fetch_offset,
        leader_epoch: partition.current_leader_epoch,
        bytes_max: partition.partition_max_bytes,
    }
}

#[cfg(test)]
mod tests {
    use kauri_protocol::messages::fetch::{FetchTopic, ForgottenTopic};

    use super::*;

    const NOW: Monotonic = Monotonic(1);

    fn request(session_id: i32, session_epoch: i32, partitions: &[(i32, i64)]) -> FetchRequest {
        let partitions: Vec<_> = partitions
            .iter()
            .map(|&(partition, fetch_offset)| FetchPartition { partition, fetch_offset, ..Default::default() })
            .collect();
        let topics =
            if partitions.is_empty() { vec![] } else { vec![FetchTopic { topic: Str::from("t"), partitions }] };
        FetchRequest { session_id, session_epoch, topics, ..Default::default() }
    }

    fn offsets(targets: &[Target]) -> Vec<(i32, i64)> {
        targets.iter().map(|target| (target.place.1, target.offset)).collect()
    }

    #[test]
    fn a_session_remembers_its_partitions_and_tells_only_changes() {
        let mut sessions = FetchSessions::default();
        let (session, targets) = sessions.open(NOW, &mut request(0, 0, &[(0, 5), (1, 6)])).unwrap();
        let Session::Created(id) = session else { panic!("a session was asked for: {session:?}") };
        assert_eq!(offsets(&targets), [(0, 5), (1, 6)]);
        let place = |index| (Str::from("t"), index);
        assert!(sessions.tell(session, &place(0), false, false, (5, 0)), "the first answer is full");
        assert!(sessions.tell(session, &place(1), false, false, (6, 0)));

        let (session, targets) = sessions.open(NOW, &mut request(id, 1, &[(0, 7)])).unwrap();
        assert_eq!(session, Session::Incremental(id));
        assert_eq!(offsets(&targets), [(0, 7), (1, 6)]);
        assert!(sessions.tell(session, &place(0), false, true, (7, 0)), "records are news");
        assert!(!sessions.tell(session, &place(1), false, false, (6, 0)), "nothing changed");

        let (session, targets) = sessions.open(NOW, &mut request(id, 2, &[])).unwrap();
        assert_eq!(offsets(&targets), [(1, 6), (0, 7)], "what gave records goes to the end");
        assert!(sessions.tell(session, &place(1), false, false, (9, 0)), "a moved high watermark is told");
    }

    #[test]
    fn a_lost_or_repeated_request_is_noticed() {
        let mut sessions = FetchSessions::default();
        let Ok((Session::Created(id), _)) = sessions.open(NOW, &mut request(0, 0, &[(0, 5)])) else { panic!() };
        assert!(sessions.open(NOW, &mut request(id, 1, &[])).is_ok());
        assert_eq!(sessions.open(NOW, &mut request(id, 1, &[])).unwrap_err(), ErrorCode::InvalidFetchSessionEpoch);
        assert_eq!(sessions.open(NOW, &mut request(id + 1, 1, &[])).unwrap_err(), ErrorCode::FetchSessionIdNotFound);
    }

    #[test]
    fn forgotten_partitions_and_closed_sessions_are_gone() {
        let mut sessions = FetchSessions::default();
        let Ok((Session::Created(id), _)) = sessions.open(NOW, &mut request(0, 0, &[(0, 5), (1, 5)])) else { panic!() };
        let mut forget = request(id, 1, &[]);
        forget.forgotten_topics_data = vec![ForgottenTopic { topic: Str::from("t"), partitions: vec![0] }];
        let (_, targets) = sessions.open(NOW, &mut forget).unwrap();
        assert_eq!(offsets(&targets), [(1, 5)]);
        let (session, _) = sessions.open(NOW, &mut request(id, NO_SESSION, &[(0, 5)])).unwrap();
        assert_eq!(session, Session::None);
        assert_eq!(sessions.sessions.len(), 0);
        assert_eq!(sessions.size, Size::default());
    }

    #[test]
    fn sessions_are_bounded_and_the_idle_give_way() {
        let mut sessions = FetchSessions::default();
        for _ in 0..FETCH_SESSIONS_MAX {
            assert!(matches!(sessions.open(NOW, &mut request(0, 0, &[(0, 5)])), Ok((Session::Created(_), _))));
        }
        assert!(matches!(sessions.open(NOW, &mut request(0, 0, &[(0, 5)])), Ok((Session::None, _))));
        let later = NOW + EVICTABLE_AFTER;
        assert!(matches!(sessions.open(later, &mut request(0, 0, &[(0, 5)])), Ok((Session::Created(_), _))));
        assert_eq!(sessions.sessions.len(), FETCH_SESSIONS_MAX);
    }

    /// Nobody has topics with such names, but a session remembers whatever it is told, and every answer names it.
    #[test]
    fn names_in_sessions_are_bounded() {
        let mut sessions = FetchSessions::default();
        let long = |session_id, session_epoch, topic: usize| {
            let mut request = request(session_id, session_epoch, &[(0, 5)]);
            request.topics[0].topic = Str::from(format!("{topic}{}", "x".repeat(1 << 20)).as_str());
            request
        };
        let Ok((Session::Created(id), _)) = sessions.open(NOW, &mut long(0, 0, 0)) else { panic!() };
        let mut epoch = 1;
        let error = loop {
            match sessions.open(NOW, &mut long(id, epoch, epoch as usize)) {
                Ok(_) => epoch += 1,
                Err(error) => break error,
            }
            assert!(epoch <= 16, "16 MiB are enough");
        };
        assert_eq!(error, ErrorCode::FetchSessionIdNotFound);
        assert_eq!(sessions.size, Size::default(), "it is gone, and the client begins another one");
        for topic in 0..20 {
            sessions.open(NOW, &mut long(0, 0, topic)).unwrap();
        }
        assert!(sessions.size.name_bytes <= FETCH_SESSION_NAME_BYTES_MAX);
        let full = sessions.sessions.len();
        let later = NOW + EVICTABLE_AFTER;
        assert!(matches!(sessions.open(later, &mut long(0, 0, 30)), Ok((Session::Created(_), _))));
        assert_eq!(sessions.sessions.len(), full, "one that was idle for long gave way");
    }
}
