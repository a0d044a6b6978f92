//! The producer id under which batches are numbered, and how one is got (KIP-98).
//!
//! An identity that is of no use any more is followed by the same id with a higher epoch (KIP-360): a batch that was
//! given up may still be on its way, and the partition that has seen the new epoch refuses it. Under another id it would
//! be written behind records that were sent after it.

use kauri_protocol::{
    error::ErrorCode,
    messages::{InitProducerIdRequest, Response},
};

use super::{config::ProducerConfig, partition::Identity, record::FailureReason};
use crate::{
    cluster::{CallError, CallId, Cluster, Target},
    io::{Monotonic, Now},
};

#[derive(Debug)]
pub(super) enum IdentityState {
    /// The producer is not idempotent.
    NotNeeded,
    Wanted {
        not_before: Monotonic,
    },
    Asked(CallId),
    Known(Identity),
}

impl IdentityState {
    pub(super) fn new(config: &ProducerConfig) -> Self {
        if config.is_idempotent() { Self::Wanted { not_before: Monotonic::default() } } else { Self::NotNeeded }
    }

    pub(super) fn current(&self) -> Option<Identity> {
        match self {
            Self::NotNeeded | Self::Wanted { .. } | Self::Asked(_) => None,
            Self::Known(identity) => Some(*identity),
        }
    }

    /// Whether batches cannot be numbered yet.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Wanted { .. } | Self::Asked(_))
    }

    /// The identity is of no use any more. When its epochs are used up, a new id is asked for.
    pub(super) fn give_up(&mut self, identity: Identity) {
        if self.current() == Some(identity) {
            *self = match identity.epoch.checked_add(1) {
                Some(epoch) => Self::Known(Identity { epoch, ..identity }),
                None => Self::Wanted { not_before: Monotonic::default() },
            };
        }
    }

    pub(super) fn poll(&mut self, now: Now, cluster: &mut Cluster) {
        if let Self::Wanted { not_before } = *self
            && not_before <= now.monotonic
        {
            let request = InitProducerIdRequest { transaction_timeout_ms: i32::MAX, ..Default::default() };
            *self = Self::Asked(cluster.call(now, Target::Any, request));
        }
    }

    pub(super) fn next_deadline(&self, now: Monotonic) -> Option<Monotonic> {
        match self {
            Self::Wanted { not_before } => Some(*not_before).filter(|at| *at > now),
            Self::NotNeeded | Self::Asked(_) | Self::Known(_) => None,
        }
    }

    pub(super) fn is_answered_by(&self, call: CallId) -> bool {
        matches!(self, Self::Asked(asked) if *asked == call)
    }

    /// Returns why there will be no identity, if asking again cannot help.
    pub(super) fn answer(
        &mut self,
        now: Now,
        config: &ProducerConfig,
        answer: Result<Response, CallError>,
    ) -> Option<FailureReason> {
        *self = Self::Wanted { not_before: now.monotonic + config.retry_pause };
        let response = match answer {
            Ok(Response::InitProducerId(response)) => response,
            Ok(_) => unreachable!("a response is decoded as its request's API"),
            Err(CallError::Send(error)) => return Some(error.into()),
            Err(CallError::Disconnected | CallError::TimedOut | CallError::Unreachable(_)) => return None,
        };
        match response.error_code {
            // Nobody else numbers batches by an id below zero.
            ErrorCode::None if response.producer_id < 0 || response.producer_epoch < 0 => None,
            ErrorCode::None => {
                *self = Self::Known(Identity { id: response.producer_id, epoch: response.producer_epoch });
                None
            }
            error if error.is_retriable() => None,
            error => Some(FailureReason::Refused { error, message: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_that_is_given_up_is_followed_by_the_next_epoch_and_the_last_one_by_a_new_id() {
        let first = Identity { id: 7, epoch: i16::MAX - 1 };
        let last = Identity { id: 7, epoch: i16::MAX };
        let mut state = IdentityState::Known(first);
        state.give_up(first);
        assert_eq!(state.current(), Some(last));
        state.give_up(first);
        assert_eq!(state.current(), Some(last), "another partition has not noticed yet");
        state.give_up(last);
        assert!(state.is_missing());
    }
}
