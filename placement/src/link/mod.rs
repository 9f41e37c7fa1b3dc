//! Links: how a replica that follows passes its sidecars' streams to the leader.
//!
//! A follower holds one bidirectional stream to the leader, on the raft port and with placement's own
//! identity on both sides. It first announces every stream it carries, then passes on what they say;
//! the leader sends orders, each encoded once and shipped once for all streams of that follower. The
//! follower asks for its lease on the same link. Whatever breaks a link, a new one begins with a new
//! announcement: nothing is repeated and nothing is remembered of the old one.
//!
//! | part | side |
//! |---|---|
//! | [`messages`] | both: what is said, and how it is encoded |
//! | [`UplinkTask`] | follower: dials whoever leads |
//! | [`LinksTask`] | leader: reads the links of all followers |

pub mod messages;
mod server;
mod uplink;

pub use server::{Links, LinksTask, PATH};
pub use uplink::UplinkTask;

/// What a follower may have said and the link not taken yet; then the link is broken off.
const UPS: usize = 16 << 10;
/// Orders that a follower may leave unread; then the link is broken off.
const DOWNS: usize = 1 << 10;
/// The largest message: a table of 4 MiB, or the announcement of some 200,000 streams.
const MAX_MESSAGE: usize = 64 << 20;
