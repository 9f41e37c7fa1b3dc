//! What to do about the stored bundle (RULINGS 10): one pure function from what is stored,
//! what this replica holds and whether it is starting, to one step.
//!
//! The Secret (or the directory) is the truth, the ConfigMap a copy that is repaired from it.
//! Partial, contradictory or invalid material is never overwritten. New material is made only
//! where nothing at all is stored and nobody is known to hold a bundle: a starting replica
//! that finds the copy of a lost bundle first waits for a running replica to write it back.
//! A write is conditional on what was read, so of two replicas one loses and decides again.

use super::{
    bundle::{BundleError, Stored, X509Bundle},
    jwks::{JwksError, JwtBundle},
    jwt::Algorithm,
    keys::Family,
    rotation::Items,
};

/// The stored material as read; an empty value counts as absent.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// `ca.crt`.
    pub anchors: Vec<u8>,
    /// `issuer.crt`.
    pub chain: Vec<u8>,
    /// `issuer.key`.
    pub key: Vec<u8>,
    /// `jwt.key`.
    pub jwt_key: Vec<u8>,
    /// `jwks.json`.
    pub jwks: Vec<u8>,
    /// Whether the Secret is annotated `dapr.io/ca-reset: "true"`.
    pub reset: bool,
    /// Whether somebody else than a sentry wrote the anchors, so may write them again.
    pub given: bool,
    /// What belongs to a change of the root.
    pub rotation: Items,
    /// The public copy, where there is one.
    pub copy: Option<PublicCopy>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("missing", &self.missing())
            .field("reset", &self.reset)
            .field("copy", &self.copy.is_some())
            .finish_non_exhaustive()
    }
}

/// What the ConfigMap holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublicCopy {
    /// `ca.crt`.
    pub anchors: Vec<u8>,
    /// `jwks.json`.
    pub jwks: Vec<u8>,
}

impl Snapshot {
    /// Whether none of the three X.509 items is there.
    pub fn is_bare(&self) -> bool {
        self.missing().len() == 3
    }

    fn missing(&self) -> Vec<&'static str> {
        [("ca.crt", &self.anchors), ("issuer.crt", &self.chain), ("issuer.key", &self.key)]
            .into_iter()
            .filter_map(|(name, value)| value.is_empty().then_some(name))
            .collect()
    }

    /// What the public copy must be for the material stored here.
    pub fn wanted_copy(&self) -> PublicCopy {
        let jwks = if self.jwt_key.is_empty() { Vec::new() } else { self.jwks.clone() };
        PublicCopy { anchors: self.anchors.clone(), jwks }
    }
}

/// What a replica works with.
#[derive(Debug, PartialEq)]
pub struct Bundle {
    /// The certificate authority.
    pub x509: X509Bundle,
    /// The token signer, if stored.
    pub jwt: Option<JwtBundle>,
}

/// The replica's situation.
#[derive(Debug, Clone, Copy)]
pub enum Situation<'a> {
    /// It holds nothing yet.
    Starting {
        /// Whether it has waited for a running replica to write a lost bundle back.
        waited: bool,
        /// Whether another replica is seen to be ready, so holds a bundle.
        others_running: bool,
    },
    /// It signs with this bundle.
    Running(&'a Bundle),
}

/// Settings that matter here.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// How tokens are signed, if they are issued.
    pub jwt: Option<Algorithm>,
    /// The configured key id.
    pub key_id: Option<&'a str>,
}

/// Why stored material cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Some but not all of the X.509 items are there.
    #[error("trust bundle is incomplete: {} missing or empty; restore the value, or empty all three to get a new CA", .missing.join(", "))]
    Partial {
        /// The missing ones.
        missing: Vec<&'static str>,
    },
    /// The X.509 items do not make a bundle.
    #[error("failed to verify CA bundle: {0}")]
    Invalid(#[from] BundleError),
    /// The JWKS is there without its key.
    #[error("JWT material is incomplete: jwt.key missing or empty while jwks.json is there")]
    PartialJwt,
    /// The JWT items do not fit each other.
    #[error("failed to verify JWKS: {0}")]
    InvalidJwt(#[from] JwksError),
    /// The JWT key is of another kind than the configured algorithm needs.
    #[error(
        "JWT signing key is incompatible with algorithm {algorithm}: it requires a {wanted:?} key, but got {found:?}"
    )]
    IncompatibleJwt {
        /// The algorithm.
        algorithm: &'static str,
        /// The kind it needs.
        wanted: Family,
        /// The kind of the key.
        found: Family,
    },
}

impl Problem {
    /// The label of the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Partial { .. } => "partial",
            Self::Invalid(BundleError::Expired) => "expired",
            Self::Invalid(_) => "invalid",
            Self::PartialJwt => "partial_jwt",
            Self::InvalidJwt(_) | Self::IncompatibleJwt { .. } => "invalid_jwt",
        }
    }
}

/// The next step.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Use what is stored, after bringing the public copy in line if it differs.
    Adopt {
        /// What is stored.
        bundle: Box<Bundle>,
        /// Whether the public copy must be written.
        repair_copy: bool,
    },
    /// Store what is missing, then decide again.
    Create {
        /// Where the X.509 items come from.
        x509: Source,
        /// Where the JWT items come from.
        jwt: JwtSource,
    },
    /// A bundle was lost and a running replica may hold it: wait, then decide again.
    AwaitHolder,
    /// Change nothing; a running replica keeps what it holds, a starting one cannot start.
    Refuse(Problem),
}

/// Where X.509 material to be stored comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// What is stored stays.
    Stored,
    /// What this replica holds.
    Held,
    /// A new CA.
    New,
}

/// Where JWT material to be stored comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtSource {
    /// What is stored stays, also if that is nothing.
    Stored,
    /// What this replica holds.
    Held,
    /// The key stays; its set is made from it.
    SetOfStoredKey,
    /// A new key and set.
    New,
}

/// Decides.
pub fn decide(snapshot: &Snapshot, situation: Situation<'_>, rules: Rules<'_>, now: i64) -> Step {
    match (decide_x509(snapshot, situation), decide_jwt(snapshot, situation, rules)) {
        (Err(Hold::Await), _) => Step::AwaitHolder,
        (Err(Hold::Problem(problem)), _) | (_, Err(problem)) => Step::Refuse(problem),
        (Ok(Source::Stored), Ok(JwtSource::Stored)) => adopt(snapshot, rules, now),
        (Ok(x509), Ok(jwt)) => {
            // What stays must be good before anything is put beside it.
            if x509 == Source::Stored
                && let Err(error) = X509Bundle::load(stored(snapshot), now)
            {
                return Step::Refuse(error.into());
            }
            Step::Create { x509, jwt }
        }
    }
}

enum Hold {
    Await,
    Problem(Problem),
}

fn decide_x509(snapshot: &Snapshot, situation: Situation<'_>) -> Result<Source, Hold> {
    let missing = snapshot.missing();
    if missing.is_empty() {
        return Ok(Source::Stored);
    }
    if missing.len() < 3 {
        return Err(Hold::Problem(Problem::Partial { missing }));
    }
    if snapshot.reset {
        return Ok(Source::New);
    }
    match situation {
        Situation::Running(_) => Ok(Source::Held),
        Situation::Starting { waited, others_running } => {
            let was_published = snapshot.copy.as_ref().is_some_and(|copy| !copy.anchors.is_empty());
            if (was_published || others_running) && !waited { Err(Hold::Await) } else { Ok(Source::New) }
        }
    }
}

fn decide_jwt(snapshot: &Snapshot, situation: Situation<'_>, rules: Rules<'_>) -> Result<JwtSource, Problem> {
    match (snapshot.jwt_key.is_empty(), snapshot.jwks.is_empty()) {
        (false, false) => {
            load_jwt(snapshot, rules)?;
            Ok(JwtSource::Stored)
        }
        _ if rules.jwt.is_none() => Ok(JwtSource::Stored),
        (true, true) => match situation {
            Situation::Running(Bundle { jwt: Some(_), .. }) if !snapshot.reset => Ok(JwtSource::Held),
            _ => Ok(JwtSource::New),
        },
        (false, true) => Ok(JwtSource::SetOfStoredKey),
        (true, false) => Err(Problem::PartialJwt),
    }
}

fn stored(snapshot: &Snapshot) -> Stored {
    Stored { anchors: snapshot.anchors.clone(), chain: snapshot.chain.clone(), key: snapshot.key.clone() }
}

fn adopt(snapshot: &Snapshot, rules: Rules<'_>, now: i64) -> Step {
    let x509 = match X509Bundle::load(stored(snapshot), now) {
        Ok(x509) => x509,
        Err(error) => return Step::Refuse(error.into()),
    };
    let whole_jwt = !snapshot.jwt_key.is_empty() && !snapshot.jwks.is_empty();
    let jwt = whole_jwt.then(|| load_jwt(snapshot, rules)).transpose();
    match jwt {
        Ok(jwt) => Step::Adopt {
            repair_copy: snapshot.copy.as_ref().is_some_and(|copy| *copy != snapshot.wanted_copy()),
            bundle: Box::new(Bundle { x509, jwt }),
        },
        Err(problem) => Step::Refuse(problem),
    }
}

fn load_jwt(snapshot: &Snapshot, rules: Rules<'_>) -> Result<JwtBundle, Problem> {
    let bundle = JwtBundle::load(snapshot.jwt_key.clone(), snapshot.jwks.clone(), rules.key_id)?;
    let found = bundle.key.public().family();
    match rules.jwt {
        Some(algorithm) if algorithm.family() != found => {
            Err(Problem::IncompatibleJwt { algorithm: algorithm.name(), wanted: algorithm.family(), found })
        }
        _ => Ok(bundle),
    }
}
