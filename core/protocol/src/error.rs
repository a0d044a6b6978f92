//! Kafka's error codes: what a broker tells a client in a response.
//!
//! Codes are part of the protocol and never change their meaning. A code that a newer peer sends is kept as it is.

use std::fmt;

macro_rules! error_codes {
    ($($(#[$attribute:meta])* $name:ident = $code:literal, $text:literal, $kind:ident, $message:literal;)*) => {
        /// The outcome of a request or of a part of it.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode {
            $(#[doc = $message] $(#[$attribute])* $name,)*
            /// A code this version does not know. Made by `From<i16>` only, never for a code that has a name.
            Unrecognized(i16),
        }

        impl ErrorCode {
            #[must_use]
            pub const fn code(self) -> i16 {
                match self {
                    $(Self::$name => $code,)*
                    Self::Unrecognized(code) => code,
                }
            }

            /// Kafka's name for the code.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Unrecognized(_) => "UNRECOGNIZED",
                }
            }

            /// A sentence for people.
            #[must_use]
            pub const fn message(self) -> &'static str {
                match self {
                    $(Self::$name => $message,)*
                    Self::Unrecognized(_) => "The error code is not known to this version.",
                }
            }

            /// Whether the same request may succeed later or on another broker. A code that is not known is taken as
            /// final.
            #[must_use]
            pub const fn is_retriable(self) -> bool {
                match self {
                    $(Self::$name => error_codes!(@ $kind),)*
                    Self::Unrecognized(_) => false,
                }
            }
        }

        impl From<i16> for ErrorCode {
            fn from(code: i16) -> Self {
                match code {
                    $($code => Self::$name,)*
                    _ => Self::Unrecognized(code),
                }
            }
        }
    };
    (@ retriable) => { true };
    (@ final) => { false };
}

error_codes! {
    UnknownServerError = -1, "UNKNOWN_SERVER_ERROR", final,
        "The broker failed in a way it did not expect.";
    #[default]
    None = 0, "NONE", final, "No error.";
    OffsetOutOfRange = 1, "OFFSET_OUT_OF_RANGE", final, "The offset lies outside of the log.";
    CorruptMessage = 2, "CORRUPT_MESSAGE", retriable, "The record batch is damaged or malformed.";
    UnknownTopicOrPartition = 3, "UNKNOWN_TOPIC_OR_PARTITION", retriable,
        "This broker knows no such topic or partition.";
    InvalidFetchSize = 4, "INVALID_FETCH_SIZE", final, "The fetch size is not valid.";
    LeaderNotAvailable = 5, "LEADER_NOT_AVAILABLE", retriable,
        "The partition has no leader at the moment.";
    NotLeaderOrFollower = 6, "NOT_LEADER_OR_FOLLOWER", retriable,
        "This broker does not lead the partition.";
    RequestTimedOut = 7, "REQUEST_TIMED_OUT", retriable,
        "The request was not completed in time; its outcome is unknown.";
    BrokerNotAvailable = 8, "BROKER_NOT_AVAILABLE", final, "The broker is not available.";
    ReplicaNotAvailable = 9, "REPLICA_NOT_AVAILABLE", retriable, "The replica is not available.";
    MessageTooLarge = 10, "MESSAGE_TOO_LARGE", final,
        "The record batch is larger than the topic allows.";
    StaleControllerEpoch = 11, "STALE_CONTROLLER_EPOCH", final,
        "The controller has moved to another broker.";
    OffsetMetadataTooLarge = 12, "OFFSET_METADATA_TOO_LARGE", final,
        "The metadata of a committed offset is too long.";
    NetworkException = 13, "NETWORK_EXCEPTION", retriable,
        "The connection ended before a response came.";
    CoordinatorLoadInProgress = 14, "COORDINATOR_LOAD_IN_PROGRESS", retriable,
        "The coordinator is still loading its state.";
    CoordinatorNotAvailable = 15, "COORDINATOR_NOT_AVAILABLE", retriable,
        "The coordinator is not available.";
    NotCoordinator = 16, "NOT_COORDINATOR", retriable, "This broker is not the coordinator.";
    InvalidTopicException = 17, "INVALID_TOPIC_EXCEPTION", final,
        "The topic's name is not valid, or the topic must not be written to.";
    RecordListTooLarge = 18, "RECORD_LIST_TOO_LARGE", final,
        "The record batch is larger than a segment.";
    NotEnoughReplicas = 19, "NOT_ENOUGH_REPLICAS", retriable,
        "Fewer replicas are in sync than the topic requires.";
    NotEnoughReplicasAfterAppend = 20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", retriable,
        "The records were written, but to fewer replicas than the topic requires.";
    InvalidRequiredAcks = 21, "INVALID_REQUIRED_ACKS", final,
        "The acks of the request must be -1, 0 or 1.";
    IllegalGeneration = 22, "ILLEGAL_GENERATION", final,
        "The generation of the group is not the current one.";
    InconsistentGroupProtocol = 23, "INCONSISTENT_GROUP_PROTOCOL", final,
        "The member's protocols do not match those of the group.";
    InvalidGroupId = 24, "INVALID_GROUP_ID", final, "The group's id is not valid.";
    UnknownMemberId = 25, "UNKNOWN_MEMBER_ID", final, "The coordinator does not know this member.";
    InvalidSessionTimeout = 26, "INVALID_SESSION_TIMEOUT", final,
        "The session timeout lies outside of the range the broker allows.";
    RebalanceInProgress = 27, "REBALANCE_IN_PROGRESS", final,
        "The group is rebalancing; the member must join again.";
    InvalidCommitOffsetSize = 28, "INVALID_COMMIT_OFFSET_SIZE", final, "The commit is too large.";
    TopicAuthorizationFailed = 29, "TOPIC_AUTHORIZATION_FAILED", final,
        "Access to the topic is denied.";
    GroupAuthorizationFailed = 30, "GROUP_AUTHORIZATION_FAILED", final,
        "Access to the group is denied.";
    ClusterAuthorizationFailed = 31, "CLUSTER_AUTHORIZATION_FAILED", final,
        "Access to the cluster is denied.";
    InvalidTimestamp = 32, "INVALID_TIMESTAMP", final,
        "A record's timestamp lies outside of the range the topic allows.";
    UnsupportedSaslMechanism = 33, "UNSUPPORTED_SASL_MECHANISM", final,
        "The broker does not offer this SASL mechanism.";
    IllegalSaslState = 34, "ILLEGAL_SASL_STATE", final,
        "The request does not fit the state of authentication.";
    UnsupportedVersion = 35, "UNSUPPORTED_VERSION", final,
        "The broker does not support this version of the request.";
    TopicAlreadyExists = 36, "TOPIC_ALREADY_EXISTS", final, "A topic of this name exists already.";
    InvalidPartitions = 37, "INVALID_PARTITIONS", final, "The number of partitions is not valid.";
    InvalidReplicationFactor = 38, "INVALID_REPLICATION_FACTOR", final,
        "The replication factor is below one or above the number of brokers.";
    InvalidReplicaAssignment = 39, "INVALID_REPLICA_ASSIGNMENT", final,
        "The assignment of replicas is not valid.";
    InvalidConfig = 40, "INVALID_CONFIG", final, "A configuration value is not valid.";
    NotController = 41, "NOT_CONTROLLER", retriable, "This broker is not the controller.";
    InvalidRequest = 42, "INVALID_REQUEST", final,
        "The request contradicts itself or the protocol.";
    UnsupportedForMessageFormat = 43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", final,
        "The message format does not support the request.";
    PolicyViolation = 44, "POLICY_VIOLATION", final,
        "The request violates a policy of the cluster.";
    OutOfOrderSequenceNumber = 45, "OUT_OF_ORDER_SEQUENCE_NUMBER", final,
        "The batch's sequence number does not follow the last one of its producer.";
    DuplicateSequenceNumber = 46, "DUPLICATE_SEQUENCE_NUMBER", final,
        "The batch was written before.";
    InvalidProducerEpoch = 47, "INVALID_PRODUCER_EPOCH", final,
        "A newer epoch of this producer is known.";
    InvalidTxnState = 48, "INVALID_TXN_STATE", final,
        "The transaction's state does not allow the request.";
    InvalidProducerIdMapping = 49, "INVALID_PRODUCER_ID_MAPPING", final,
        "The producer id does not belong to the transactional id.";
    InvalidTransactionTimeout = 50, "INVALID_TRANSACTION_TIMEOUT", final,
        "The transaction timeout is larger than the broker allows.";
    ConcurrentTransactions = 51, "CONCURRENT_TRANSACTIONS", retriable,
        "The previous transaction of this producer is still being completed.";
    TransactionCoordinatorFenced = 52, "TRANSACTION_COORDINATOR_FENCED", final,
        "A newer transaction coordinator is known.";
    TransactionalIdAuthorizationFailed = 53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", final,
        "Access to the transactional id is denied.";
    SecurityDisabled = 54, "SECURITY_DISABLED", final, "Security features are switched off.";
    OperationNotAttempted = 55, "OPERATION_NOT_ATTEMPTED", final,
        "The operation was not attempted because another one of the request failed.";
    KafkaStorageError = 56, "KAFKA_STORAGE_ERROR", retriable, "The broker's disk failed.";
    LogDirNotFound = 57, "LOG_DIR_NOT_FOUND", final, "The broker has no such data directory.";
    SaslAuthenticationFailed = 58, "SASL_AUTHENTICATION_FAILED", final, "Authentication failed.";
    UnknownProducerId = 59, "UNKNOWN_PRODUCER_ID", final,
        "The broker knows nothing of this producer.";
    ReassignmentInProgress = 60, "REASSIGNMENT_IN_PROGRESS", final,
        "The partition is being reassigned.";
    DelegationTokenAuthDisabled = 61, "DELEGATION_TOKEN_AUTH_DISABLED", final,
        "Delegation tokens are switched off.";
    DelegationTokenNotFound = 62, "DELEGATION_TOKEN_NOT_FOUND", final,
        "The delegation token does not exist.";
    DelegationTokenOwnerMismatch = 63, "DELEGATION_TOKEN_OWNER_MISMATCH", final,
        "The principal does not own the delegation token.";
    DelegationTokenRequestNotAllowed = 64, "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED", final,
        "Delegation tokens cannot be requested over this connection.";
    DelegationTokenAuthorizationFailed = 65, "DELEGATION_TOKEN_AUTHORIZATION_FAILED", final,
        "Access to the delegation token is denied.";
    DelegationTokenExpired = 66, "DELEGATION_TOKEN_EXPIRED", final,
        "The delegation token has expired.";
    InvalidPrincipalType = 67, "INVALID_PRINCIPAL_TYPE", final,
        "The type of the principal is not supported.";
    NonEmptyGroup = 68, "NON_EMPTY_GROUP", final, "The group is not empty.";
    GroupIdNotFound = 69, "GROUP_ID_NOT_FOUND", final, "The group does not exist.";
    FetchSessionIdNotFound = 70, "FETCH_SESSION_ID_NOT_FOUND", retriable,
        "The broker has no such fetch session.";
    InvalidFetchSessionEpoch = 71, "INVALID_FETCH_SESSION_EPOCH", retriable,
        "The epoch of the fetch session is not the next one.";
    ListenerNotFound = 72, "LISTENER_NOT_FOUND", retriable,
        "The leader has no listener of the kind the request came in by.";
    TopicDeletionDisabled = 73, "TOPIC_DELETION_DISABLED", final,
        "Deleting topics is switched off.";
    FencedLeaderEpoch = 74, "FENCED_LEADER_EPOCH", retriable,
        "The request's leader epoch is older than the broker's.";
    UnknownLeaderEpoch = 75, "UNKNOWN_LEADER_EPOCH", retriable,
        "The request's leader epoch is newer than the broker's.";
    UnsupportedCompressionType = 76, "UNSUPPORTED_COMPRESSION_TYPE", final,
        "The version of the request does not support this compression.";
    StaleBrokerEpoch = 77, "STALE_BROKER_EPOCH", final,
        "The broker's epoch is not the current one.";
    OffsetNotAvailable = 78, "OFFSET_NOT_AVAILABLE", retriable,
        "The leader does not know its high watermark yet.";
    MemberIdRequired = 79, "MEMBER_ID_REQUIRED", final,
        "The member must join again with the id it was given.";
    PreferredLeaderNotAvailable = 80, "PREFERRED_LEADER_NOT_AVAILABLE", retriable,
        "The preferred leader is not available.";
    GroupMaxSizeReached = 81, "GROUP_MAX_SIZE_REACHED", final, "The group is full.";
    FencedInstanceId = 82, "FENCED_INSTANCE_ID", final,
        "Another member has taken over this instance id.";
    EligibleLeadersNotAvailable = 83, "ELIGIBLE_LEADERS_NOT_AVAILABLE", retriable,
        "No replica that may lead is available.";
    ElectionNotNeeded = 84, "ELECTION_NOT_NEEDED", retriable, "The partition needs no election.";
    NoReassignmentInProgress = 85, "NO_REASSIGNMENT_IN_PROGRESS", final,
        "The partition is not being reassigned.";
    GroupSubscribedToTopic = 86, "GROUP_SUBSCRIBED_TO_TOPIC", final,
        "The group is subscribed to the topic.";
    InvalidRecord = 87, "INVALID_RECORD", final, "A record failed validation.";
    UnstableOffsetCommit = 88, "UNSTABLE_OFFSET_COMMIT", retriable,
        "Some offsets belong to transactions that are still open.";
    ThrottlingQuotaExceeded = 89, "THROTTLING_QUOTA_EXCEEDED", retriable, "A quota is exceeded.";
    ProducerFenced = 90, "PRODUCER_FENCED", final,
        "A newer producer with the same transactional id is known.";
    ResourceNotFound = 91, "RESOURCE_NOT_FOUND", final, "The resource does not exist.";
    DuplicateResource = 92, "DUPLICATE_RESOURCE", final, "The resource exists already.";
    UnacceptableCredential = 93, "UNACCEPTABLE_CREDENTIAL", final,
        "The credential does not meet the requirements.";
    InconsistentVoterSet = 94, "INCONSISTENT_VOTER_SET", final,
        "The sender and the receiver disagree about the voters.";
    InvalidUpdateVersion = 95, "INVALID_UPDATE_VERSION", final,
        "The version of the update is not valid.";
    FeatureUpdateFailed = 96, "FEATURE_UPDATE_FAILED", final, "The feature could not be updated.";
    PrincipalDeserializationFailure = 97, "PRINCIPAL_DESERIALIZATION_FAILURE", final,
        "The principal could not be decoded.";
    SnapshotNotFound = 98, "SNAPSHOT_NOT_FOUND", final, "The snapshot does not exist.";
    PositionOutOfRange = 99, "POSITION_OUT_OF_RANGE", final,
        "The position lies outside of the snapshot.";
    UnknownTopicId = 100, "UNKNOWN_TOPIC_ID", retriable, "This broker knows no topic of this id.";
    DuplicateBrokerRegistration = 101, "DUPLICATE_BROKER_REGISTRATION", final,
        "The broker id is taken.";
    BrokerIdNotRegistered = 102, "BROKER_ID_NOT_REGISTERED", final,
        "The broker id is not registered.";
    InconsistentTopicId = 103, "INCONSISTENT_TOPIC_ID", retriable,
        "The topic's id and its log disagree.";
    InconsistentClusterId = 104, "INCONSISTENT_CLUSTER_ID", final,
        "The request was meant for another cluster.";
    TransactionalIdNotFound = 105, "TRANSACTIONAL_ID_NOT_FOUND", final,
        "The transactional id does not exist.";
    FetchSessionTopicIdError = 106, "FETCH_SESSION_TOPIC_ID_ERROR", retriable,
        "The fetch session mixes topic ids and names.";
    IneligibleReplica = 107, "INELIGIBLE_REPLICA", final,
        "The replica may not join the in-sync replicas.";
    NewLeaderElected = 108, "NEW_LEADER_ELECTED", final, "Another leader was elected meanwhile.";
    OffsetMovedToTieredStorage = 109, "OFFSET_MOVED_TO_TIERED_STORAGE", final,
        "The offset has moved to tiered storage.";
    FencedMemberEpoch = 110, "FENCED_MEMBER_EPOCH", final, "The member's epoch is fenced.";
    UnreleasedInstanceId = 111, "UNRELEASED_INSTANCE_ID", final,
        "Another member still holds the instance id.";
    UnsupportedAssignor = 112, "UNSUPPORTED_ASSIGNOR", final,
        "The broker does not offer this assignor.";
    StaleMemberEpoch = 113, "STALE_MEMBER_EPOCH", final,
        "The member's epoch is older than the current one.";
    MismatchedEndpointType = 114, "MISMATCHED_ENDPOINT_TYPE", final,
        "The request was sent to an endpoint of the wrong type.";
    UnsupportedEndpointType = 115, "UNSUPPORTED_ENDPOINT_TYPE", final,
        "The endpoint type is not supported.";
    UnknownControllerId = 116, "UNKNOWN_CONTROLLER_ID", final, "The controller id is not known.";
    UnknownSubscriptionId = 117, "UNKNOWN_SUBSCRIPTION_ID", final,
        "The telemetry subscription is not the current one.";
    TelemetryTooLarge = 118, "TELEMETRY_TOO_LARGE", final, "The telemetry is too large.";
    InvalidRegistration = 119, "INVALID_REGISTRATION", final, "The registration is not valid.";
    TransactionAbortable = 120, "TRANSACTION_ABORTABLE", final,
        "The transaction must be aborted; the producer can go on afterwards.";
    InvalidRecordState = 121, "INVALID_RECORD_STATE", final,
        "The record's state does not allow the acknowledgement.";
    ShareSessionNotFound = 122, "SHARE_SESSION_NOT_FOUND", retriable,
        "The broker has no such share session.";
    InvalidShareSessionEpoch = 123, "INVALID_SHARE_SESSION_EPOCH", retriable,
        "The epoch of the share session is not the next one.";
    FencedStateEpoch = 124, "FENCED_STATE_EPOCH", final, "The state's epoch is fenced.";
    InvalidVoterKey = 125, "INVALID_VOTER_KEY", final, "The voter's key is not valid.";
    DuplicateVoter = 126, "DUPLICATE_VOTER", final, "The voter exists already.";
    VoterNotFound = 127, "VOTER_NOT_FOUND", final, "The voter does not exist.";
    InvalidRegularExpression = 128, "INVALID_REGULAR_EXPRESSION", final,
        "The regular expression is not valid.";
    RebootstrapRequired = 129, "REBOOTSTRAP_REQUIRED", final,
        "The client must start again from its bootstrap servers.";
    StreamsInvalidTopology = 130, "STREAMS_INVALID_TOPOLOGY", final, "The topology is not valid.";
    StreamsInvalidTopologyEpoch = 131, "STREAMS_INVALID_TOPOLOGY_EPOCH", final,
        "The topology's epoch is not valid.";
    StreamsTopologyFenced = 132, "STREAMS_TOPOLOGY_FENCED", final,
        "The topology's epoch is fenced.";
    ShareSessionLimitReached = 133, "SHARE_SESSION_LIMIT_REACHED", retriable,
        "The broker has no room for another share session.";
}

impl ErrorCode {
    #[must_use]
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::None)
    }

    #[must_use]
    pub const fn is_error(self) -> bool {
        !self.is_ok()
    }
}

impl From<ErrorCode> for i16 {
    fn from(error: ErrorCode) -> Self {
        error.code()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.name(), self.code(), self.message())
    }
}

impl std::error::Error for ErrorCode {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_its_number() {
        for code in i16::MIN..=i16::MAX {
            assert_eq!(ErrorCode::from(code).code(), code);
        }
        assert_eq!(ErrorCode::from(6), ErrorCode::NotLeaderOrFollower);
        assert_eq!(ErrorCode::default(), ErrorCode::None);
    }

    #[test]
    fn a_code_reads_as_a_sentence() {
        assert_eq!(
            ErrorCode::NotLeaderOrFollower.to_string(),
            "NOT_LEADER_OR_FOLLOWER (6): This broker does not lead the partition."
        );
        assert_eq!(
            ErrorCode::from(999).to_string(),
            "UNRECOGNIZED (999): The error code is not known to this version."
        );
    }
}
