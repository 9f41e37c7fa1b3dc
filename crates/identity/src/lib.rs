//! Who a workload is, and how it proves it.
//!
//! The names ([`TrustDomain`], [`Namespace`], [`AppId`], [`SpiffeId`]) are pure values, used
//! by every component's core. The rest is the identity that control-plane components serve
//! and dial with: [`workload`] obtains it from sentry and keeps it fresh, [`tls`] turns it
//! into TLS configurations, [`server`] accepts connections, [`client`] opens them and
//! [`peer`] says who is at the other end.
//!
//! | task | owns | receives | sends | ends |
//! |---|---|---|---|---|
//! | [`workload::Task`] | trust anchors, own SVID | anchor file, sentry's answers | both, by watch | stop, or a refused first SVID |
//! | [`server::Incoming`] | listener, handshakes | sockets | connections | when dropped |

mod anchors;
pub mod client;
mod control_plane;
mod leaf;
pub mod peer;
mod security;
mod segment;
pub mod server;
mod spiffe_id;
mod spiffe_uri;
mod svid;
pub mod tls;
mod trust_domain;
pub mod workload;

pub use anchors::{AnchorsError, ChainError, TrustAnchors};
pub use control_plane::{ControlPlaneService, UnknownService};
pub use leaf::{LeafError, LeafKey};
pub use peer::{Peer, PeerError};
pub use security::Security;
pub use segment::{AppId, Namespace};
pub use spiffe_id::{MalformedPeer, SpiffeId};
pub use spiffe_uri::{NameError, SpiffeUri};
pub use svid::{Svid, SvidError, SvidRx};
pub use tls::{Alpn, AnchorsRx, PeerRule};
pub use trust_domain::TrustDomain;
pub use workload::Workload;
