//! Every way a stream can end, as gRPC status: codes and texts are fixed by placement.md §8.2.

use runtime::duration::GoDuration;
use tonic::{Code, Status};

use crate::core::{EndReason, Refusal};

/// Why a stream is refused or ended by the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// E1: this replica does not lead.
    NotLeader {
        /// `--id`.
        node: String,
    },
    /// E2.
    ShuttingDown,
    /// The signal's end of open streams.
    Stopped,
    /// Leadership went elsewhere.
    LostLeadership,
    /// E10.
    HalfClosed,
    /// The client did not say who it is.
    Silent,
    /// The stream's queue is full: the peer does not read.
    Overflow,
    /// E11 and whatever the transport says.
    Transport(Code, String),
    /// A message was refused.
    Refused(Refusal),
    /// The machine ended it.
    Machine(EndReason),
}

/// The status of an ending. Exhaustive on purpose.
pub fn status(ending: &Ending) -> Status {
    match ending {
        Ending::NotLeader { node } => {
            Status::failed_precondition(format!("node id={node} is not a leader. Only the leader can serve requests"))
        }
        Ending::ShuttingDown => Status::unavailable("placement server is shutting down"),
        Ending::Stopped => Status::unknown("cancelling context, received signal terminated"),
        Ending::LostLeadership => Status::unknown("lost leadership"),
        Ending::HalfClosed => Status::unknown("EOF"),
        Ending::Silent => Status::deadline_exceeded("no status report received in time"),
        Ending::Overflow => Status::resource_exhausted("the client does not read its placement orders"),
        Ending::Transport(code, text) => Status::new(*code, text.clone()),
        Ending::Refused(refusal) => Status::new(refusal_code(refusal), refusal.to_string()),
        Ending::Machine(reason) => machine(reason),
    }
}

fn refusal_code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::NoClientId => Code::Unauthenticated,
        Refusal::VersionWithoutOperation | Refusal::Incomplete => Code::InvalidArgument,
        Refusal::ForeignAppId { .. } | Refusal::ForeignNamespace { .. } | Refusal::ForeignEntity { .. } => {
            Code::PermissionDenied
        }
    }
}

fn machine(reason: &EndReason) -> Status {
    match reason {
        EndReason::DisseminationTimeout { limit, version } => Status::deadline_exceeded(format!(
            "dissemination timeout after {} for version {version}",
            GoDuration::from(*limit)
        )),
        EndReason::Superseded => Status::aborted("a newer stream of the same host was opened"),
        EndReason::UnlockOverdue { version } => {
            Status::deadline_exceeded(format!("no table within 14s of the lock of version {version}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn codes_and_texts_are_those_sidecars_know() {
        let refused = |r| Ending::Refused(r);
        let timeout = |limit| Ending::Machine(EndReason::DisseminationTimeout { limit, version: 1 });
        let table: [(Ending, Code, &str); 9] = [
            (
                Ending::NotLeader { node: "p1".into() },
                Code::FailedPrecondition,
                "node id=p1 is not a leader. Only the leader can serve requests",
            ),
            (Ending::ShuttingDown, Code::Unavailable, "placement server is shutting down"),
            (refused(Refusal::NoClientId), Code::Unauthenticated, "failed to get client ID from context"),
            (
                refused(Refusal::VersionWithoutOperation),
                Code::InvalidArgument,
                "both operation and version must be set or both must be unset",
            ),
            (refused(Refusal::Incomplete), Code::InvalidArgument, "host ID and namespace must be provided"),
            (timeout(Duration::from_secs(1)), Code::DeadlineExceeded, "dissemination timeout after 1s for version 1"),
            (
                timeout(Duration::from_millis(1500)),
                Code::DeadlineExceeded,
                "dissemination timeout after 1.5s for version 1",
            ),
            (Ending::HalfClosed, Code::Unknown, "EOF"),
            (Ending::LostLeadership, Code::Unknown, "lost leadership"),
        ];
        for (ending, code, text) in table {
            let status = status(&ending);
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }
}
