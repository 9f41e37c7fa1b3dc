//! Which generation a sidecar is of, as far as its wire form differs.
//!
//! A sidecar does not say its version; its gRPC library does, in the user agent (RULINGS 27).

/// A generation of sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// v1.16, which exits on OTel headers as a list and on a textual OTel timeout.
    V1_16,
    /// v1.17 and later, and whoever else asks.
    Later,
}

/// The first grpc-go of v1.17.
const FIRST_LATER: (u32, u32) = (1, 78);

impl Generation {
    /// Reads a user agent such as `grpc-go/1.73.0`.
    pub fn of_user_agent(user_agent: &str) -> Self {
        let version = user_agent.split_whitespace().find_map(|word| word.strip_prefix("grpc-go/"));
        let mut numbers = version.unwrap_or_default().split('.').map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < FIRST_LATER => Self::V1_16,
            _ => Self::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_grpc_go_below_1_78_is_v1_16() {
        for (agent, generation) in [
            ("grpc-go/1.73.0", Generation::V1_16),
            ("dapr grpc-go/1.77.1", Generation::V1_16),
            ("grpc-go/1.78.0", Generation::Later),
            ("grpc-go/2.0.0", Generation::Later),
            ("grpc-go/x", Generation::Later),
            ("tonic/0.14", Generation::Later),
            ("", Generation::Later),
        ] {
            assert_eq!(Generation::of_user_agent(agent), generation, "{agent:?}");
        }
    }
}
