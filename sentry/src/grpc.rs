//! The gRPC service: one method, `SignCertificate`, in the order of contract §3.4, with one
//! audit line and one count for every answer.

use std::{collections::HashMap, sync::Arc, time::Duration};

use identity::SpiffeId;
use proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse, ca_server::Ca};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::{
    args::JwtConfig,
    clock::unix_now,
    core::{
        asked::{Asked, Caller, approve},
        decide::Bundle,
        dns_names::Home,
        jwks::default_key_id,
        jwt::{self, Token},
    },
    issuer::{Issued, Issuer},
    metrics::{Metrics, Outcome, Reason},
    signing::{self, CryptoError},
    status::SignError,
    validators::Validators,
};

/// How long a call is held for transient trouble: daprd waits 3 s for each attempt.
const HOLD: Duration = Duration::from_millis(2500);

/// Answers sign requests.
pub struct CaService {
    /// The validators.
    pub validators: Validators,
    /// The signer.
    pub issuer: Arc<Issuer>,
    /// Where the control plane lives.
    pub home: Home,
    /// Tokens, if issued.
    pub jwt: Option<JwtConfig>,
    /// Counters.
    pub metrics: Metrics,
}

/// A certificate with all that goes with it.
struct Granted {
    caller: Caller,
    issued: Issued,
    jwt: Option<String>,
    per_audience: HashMap<String, String>,
}

#[tonic::async_trait]
impl Ca for CaService {
    async fn sign_certificate(
        &self,
        request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        let started = Instant::now();
        self.metrics.received.inc();
        let request = request.into_inner();
        let granted = self.sign(&request, started + HOLD).await;
        let validator = self.validators.name(request.token_validator);
        self.record(&request, validator, started, &granted);
        granted.map(|granted| Response::new(response(granted))).map_err(|error| Status::from(&error))
    }
}

impl CaService {
    async fn sign(&self, request: &SignCertificateRequest, deadline: Instant) -> Result<Granted, SignError> {
        let asked = Asked {
            app_id: &request.id,
            namespace: &request.namespace,
            trust_domain: &request.trust_domain,
            csr: &request.certificate_signing_request,
        };
        let caller = self.validators.authenticate(request.token_validator, &asked, &request.token, deadline).await?;
        let approved = approve(&asked, &caller, &self.home)?;
        let issued = self.issuer.issue(&approved)?;
        let (jwt, per_audience) = self.tokens(approved.id(), &issued.bundle, &request.jwt_audiences)?;
        Ok(Granted { caller, issued, jwt, per_audience })
    }

    /// One token for all audiences, the trust domain first, and one for each.
    fn tokens(
        &self,
        id: &SpiffeId,
        bundle: &Bundle,
        wanted: &[String],
    ) -> Result<(Option<String>, HashMap<String, String>), SignError> {
        let (Some(config), Some(key)) = (&self.jwt, &bundle.jwt) else {
            return Ok((None, HashMap::new()));
        };
        let mut audiences = vec![id.trust_domain().to_string()];
        audiences.extend_from_slice(wanted);
        let key_id = config.key_id.clone().unwrap_or_else(|| default_key_id(key.key.public()));
        let token = |audiences: &[String]| -> Result<String, CryptoError> {
            let input = jwt::signing_input(
                config.algorithm,
                &key_id,
                &Token {
                    id,
                    audiences,
                    issuer: config.issuer.as_deref(),
                    issued_at: unix_now(),
                    skew: i64::try_from(self.issuer.lifetimes().skew().as_secs()).unwrap_or(0),
                    ttl: config.ttl,
                    token_id: signing::serial()?,
                },
            );
            let signature = signing::sign_jws(&key.key, config.algorithm, input.as_bytes())?;
            Ok(jwt::compact(&input, &signature))
        };
        let all = token(&audiences).map_err(SignError::Jwt)?;
        let mut per_audience = HashMap::with_capacity(audiences.len());
        for audience in audiences {
            let signed = token(std::slice::from_ref(&audience))
                .map_err(|source| SignError::AudienceJwt { audience: audience.clone(), source })?;
            per_audience.insert(audience, signed);
        }
        Ok((Some(all), per_audience))
    }

    fn record(
        &self,
        request: &SignCertificateRequest,
        validator: &'static str,
        started: Instant,
        granted: &Result<Granted, SignError>,
    ) {
        let reason = match granted {
            Ok(granted) => {
                self.metrics.success.inc();
                audit_issued(request, validator, granted);
                "issued"
            }
            Err(error) => {
                self.metrics.failure.get_or_create(&Reason { reason: "sign" }).inc();
                audit_refused(request, validator, error);
                error.reason()
            }
        };
        let outcome = Outcome { validator, reason };
        self.metrics.outcomes.get_or_create(&outcome).inc();
        self.metrics.latency.get_or_create(&outcome).observe(started.elapsed().as_secs_f64());
    }
}

fn audit_issued(request: &SignCertificateRequest, validator: &'static str, granted: &Granted) {
    tracing::info!(
        audit = "issued",
        validator,
        ns = request.namespace,
        app_id = request.id,
        trust_domain = %granted.caller.trust_domain,
        service_account = granted.caller.service_account.as_deref().unwrap_or_default(),
        pod = granted.caller.pod.as_deref().unwrap_or_default(),
        serial = hex::encode(granted.issued.serial),
        sha256 = hex::encode(signing::sha256(&granted.issued.leaf)),
        not_after = granted.issued.window.not_after,
        "certificate issued"
    );
}

fn audit_refused(request: &SignCertificateRequest, validator: &'static str, error: &SignError) {
    // Names come from an unauthenticated caller: quoted and cut.
    let cut = |text: &str| text.chars().take(256).collect::<String>();
    tracing::info!(
        audit = "refused",
        validator,
        reason = error.reason(),
        ns = ?cut(&request.namespace),
        app_id = ?cut(&request.id),
        error = %cut(&error.to_string()),
        "certificate refused"
    );
}

fn response(granted: Granted) -> SignCertificateResponse {
    SignCertificateResponse {
        workload_certificate: granted.issued.chain_pem().into_bytes(),
        trust_chain_certificates: vec![granted.issued.bundle.x509.anchors_pem().as_bytes().to_vec()],
        valid_until: Some(prost_types::Timestamp { seconds: granted.issued.window.not_after, nanos: 0 }),
        jwt: granted.jwt,
        per_audience_jwts: granted.per_audience,
    }
}
