//! When a replica that misses its leader campaigns.
//!
//! Time since the leader was missed is cut into slots of [`limits::CAMPAIGN_INTERVAL`]. The replicas that are up from
//! our view take the slots in turn, in rank order, so that usually one campaigns at a time: the first at once, and
//! everybody again until a leader is known. Nodes miss a leader at slightly different times and may see different
//! replicas up; jitter keeps two of them from colliding for ever.
//!
//! Invariant: a schedule only says when. Whether a campaign wins, and that two of them do no harm, is Raft's affair.
//! The owner drops the schedule once a leader is known.

use std::time::Duration;

use crate::{ids::ReplicaId, limits, rng::Stream, time::Monotonic};

/// Jitter of every slot but the first one of the first rank.
const JITTER: Duration = limits::CAMPAIGN_INTERVAL.saturating_mul(2).checked_div(5).expect("five is not zero");

/// What one replica knows about its group's voters at one time.
#[derive(Clone, Copy, Debug)]
pub struct Electorate<'a> {
    /// Voters in rank order (any fixed order that all replicas agree on) and whether their nodes are up from our
    /// view. In a joint configuration the voters of both halves, each once. Our own node is always up.
    pub voters: &'a [(ReplicaId, bool)],
    pub own: ReplicaId,
    /// Whether a majority of each half of the configuration is up from our view (see [`majority_up`]). Without it a
    /// campaign cannot win and is not started.
    pub electable: bool,
}

/// Whether more than half of the voters satisfy `up`. An empty half of a configuration is always satisfied.
pub fn majority_up(voters: impl IntoIterator<Item = ReplicaId>, mut up: impl FnMut(ReplicaId) -> bool) -> bool {
    let (mut all, mut living) = (0, 0);
    for voter in voters {
        all += 1;
        living += usize::from(up(voter));
    }
    all == 0 || living * 2 > all
}

/// One replica's schedule while its group has no leader that we know of.
#[derive(Debug)]
pub struct Campaign {
    /// Place among the replicas that are up, and how many these are; none: not a voter.
    place: Option<Place>,
    next: Option<Monotonic>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    rank: u32,
    of: u32,
}

impl Campaign {
    /// The leader is missing since `now`.
    pub fn new(now: Monotonic, electorate: &Electorate<'_>, jitter: &mut Stream) -> Self {
        let place = Place::of(electorate);
        Self { place, next: place.map(|place| place.first_slot(now, jitter)) }
    }

    /// Whether to campaign now. `electorate` is the present view: when it changed, the schedule follows it.
    pub fn poll(&mut self, now: Monotonic, electorate: &Electorate<'_>, jitter: &mut Stream) -> bool {
        let place = Place::of(electorate);
        if place != self.place {
            self.place = place;
            // Others dropping out may only bring the next attempt closer.
            let first = place.map(|place| place.first_slot(now, jitter));
            self.next = first.map(|first| self.next.map_or(first, |next| next.min(first)));
        }
        let (Some(place), Some(next)) = (self.place, self.next) else { return false };
        if next > now {
            return false;
        }
        self.next = Some(place.next_slot(now, jitter));
        electorate.electable
    }

    /// When [`Campaign::poll`] has to be called if the view does not change before.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.next
    }
}

impl Place {
    fn of(electorate: &Electorate<'_>) -> Option<Self> {
        let mut place = None;
        let mut up = 0;
        for &(replica, is_up) in electorate.voters {
            let own = replica == electorate.own;
            if own {
                place = Some(up);
            }
            up += u32::from(is_up || own);
        }
        place.map(|rank| Self { rank, of: up })
    }

    fn first_slot(self, now: Monotonic, jitter: &mut Stream) -> Monotonic {
        if self.rank == 0 { now } else { now + limits::CAMPAIGN_INTERVAL * self.rank + random(jitter) }
    }

    fn next_slot(self, now: Monotonic, jitter: &mut Stream) -> Monotonic {
        now + limits::CAMPAIGN_INTERVAL * self.of + random(jitter)
    }
}

fn random(jitter: &mut Stream) -> Duration {
    Duration::from_nanos(jitter.below(JITTER.as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    fn at(milliseconds: u64) -> Monotonic {
        Monotonic(milliseconds * 1_000_000)
    }

    fn stream(node: i32) -> Stream {
        Stream::new(7, NodeId(node), "campaign", 1)
    }

    const R1: ReplicaId = ReplicaId(1);
    const R2: ReplicaId = ReplicaId(2);
    const R3: ReplicaId = ReplicaId(3);

    /// Times in milliseconds at which `own` campaigns within `until`.
    fn times(own: ReplicaId, voters: &[(ReplicaId, bool)], until: u64) -> Vec<u64> {
        let electorate = Electorate { voters, own, electable: true };
        let mut jitter = stream(own.0 as i32);
        let mut campaign = Campaign::new(at(0), &electorate, &mut jitter);
        (0..until).filter(|&ms| campaign.poll(at(ms), &electorate, &mut jitter)).collect()
    }

    #[test]
    fn replicas_campaign_one_after_the_other_in_rank_order() {
        // The leader R1 is down.
        let voters = [(R1, false), (R2, true), (R3, true)];
        let (second, third) = (times(R2, &voters, 2000), times(R3, &voters, 2000));
        assert_eq!(second[0], 0, "the first one that is up waits for nothing");
        assert!((200..=280).contains(&third[0]), "{third:?}");
        assert!(second.len() >= 4 && third.len() >= 3, "and again until a leader is known: {second:?} {third:?}");
        for (own, other) in [(&second, &third), (&third, &second)] {
            assert!(own.windows(2).all(|pair| (400..=480).contains(&(pair[1] - pair[0]))), "{own:?}");
            assert_ne!(own, other);
        }
    }

    #[test]
    fn the_next_in_line_does_not_wait_for_one_who_dropped_out() {
        let own = R3;
        let mut jitter = stream(3);
        let view = |second| [(R1, false), (R2, second), (R3, true)];
        let (both, alone) = (view(true), view(false));
        let mut campaign = Campaign::new(at(0), &Electorate { voters: &both, own, electable: true }, &mut jitter);
        assert!(!campaign.poll(at(50), &Electorate { voters: &both, own, electable: true }, &mut jitter));
        assert!(campaign.poll(at(60), &Electorate { voters: &alone, own, electable: true }, &mut jitter));
    }

    #[test]
    fn without_a_majority_nobody_campaigns_and_with_one_at_the_next_slot() {
        let voters = [(R1, false), (R2, true), (R3, false)];
        let mut jitter = stream(2);
        let view = |electable| Electorate { voters: &voters, own: R2, electable };
        let mut campaign = Campaign::new(at(0), &view(false), &mut jitter);
        assert!((0..1000).all(|ms| !campaign.poll(at(ms), &view(false), &mut jitter)));
        let wait = (1000..2000).find(|&ms| campaign.poll(at(ms), &view(true), &mut jitter)).expect("it campaigns");
        assert!(wait < 1300);
        assert!(majority_up([R1, R2, R3], |replica| replica != R1));
        assert!(!majority_up([R1, R2, R3], |replica| replica == R2));
        assert!(!majority_up([R1, R2], |replica| replica == R2), "half is no majority");
        assert!(majority_up([], |_| false));
    }

    #[test]
    fn who_is_no_voter_never_campaigns() {
        assert!(times(ReplicaId(9), &[(R1, false), (R2, true)], 2000).is_empty());
    }

    #[test]
    fn collisions_do_not_last() {
        // R2 and R3 each believe that only themselves are up: every slot of one is a slot of the other.
        let a = times(R2, &[(R1, false), (R2, true), (R3, false)], 5000);
        let b = times(R3, &[(R1, false), (R2, false), (R3, true)], 5000);
        let lonely = a.iter().filter(|&&a| b.iter().all(|&b| a.abs_diff(b) > 20)).count();
        assert!(lonely > a.len() / 3, "{a:?} {b:?}");
    }
}
