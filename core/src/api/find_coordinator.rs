//! FindCoordinator: until groups and transactions exist, a refusal that no client retries, with the reason.

use kauri_protocol::{
    error::ErrorCode,
    messages::{FindCoordinatorRequest, FindCoordinatorResponse, find_coordinator::Coordinator},
    wire::Str,
};

use super::{Exchange, Progress, done};

const TRANSACTIONAL_ID: i8 = 1;
/// Coordinators that the reason is told with. A key takes a byte, and the reason a hundred: a small request must not make
/// an answer that takes much of the memory for answers.
const EXPLAINED_MAX: usize = 100;

pub(super) fn start(exchange: Exchange, request: FindCoordinatorRequest) -> Progress {
    let (error_code, message) = refusal(request.key_type);
    let error_message = Some(Str::from(message));
    let nowhere = (-1, Str::from(""), -1);
    let response = if exchange.version >= 4 {
        let coordinators = request.coordinator_keys.into_iter().enumerate().map(|(place, key)| Coordinator {
            key,
            node_id: nowhere.0,
            host: nowhere.1.clone(),
            port: nowhere.2,
            error_code,
            error_message: error_message.clone().filter(|_| place < EXPLAINED_MAX),
        });
        FindCoordinatorResponse { coordinators: coordinators.collect(), ..Default::default() }
    } else {
        FindCoordinatorResponse {
            error_code,
            error_message: if exchange.version >= 1 { error_message } else { None },
            node_id: nowhere.0,
            host: nowhere.1,
            port: nowhere.2,
            ..Default::default()
        }
    };
    done(exchange, &response)
}

/// The error codes are chosen by what clients do with them: each of these ends the attempt at once, where codes that
/// would describe it better make librdkafka or the Java client ask again for ever.
fn refusal(key_type: i8) -> (ErrorCode, &'static str) {
    if key_type == TRANSACTIONAL_ID {
        (
            ErrorCode::TransactionalIdAuthorizationFailed,
            "Kauri does not support transactions yet: remove transactional.id; idempotent producers work",
        )
    } else {
        (
            ErrorCode::GroupAuthorizationFailed,
            "Kauri does not support consumer groups yet: assign partitions instead of subscribing",
        )
    }
}
