//! A real sentry process, on free ports of the loopback.

use std::{
    io::Read as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use identity::{PeerRule, SpiffeId, TrustAnchors, client, tls};
use proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse, ca_client::CaClient};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};
use tonic::{Status, transport::Channel};

/// Longer than any start on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Sentry {
    child: Child,
    pub dir: TempDir,
    pub grpc: u16,
    pub health: u16,
    pub metrics: u16,
    pub oidc: u16,
}

/// How to start one.
pub struct Start {
    pub dir: TempDir,
    pub flags: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
    /// The port of the OIDC server, if it must be known beforehand.
    pub oidc: Option<u16>,
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Start {
    /// Standalone, with an empty configuration file and an empty credentials directory.
    pub fn standalone() -> Self {
        let start = Self { dir: tempfile::tempdir().unwrap(), flags: Vec::new(), environment: Vec::new(), oidc: None };
        std::fs::write(start.dir.path().join("config.yaml"), "").unwrap();
        std::fs::create_dir(start.dir.path().join("creds")).unwrap();
        let path = |name: &str| start.dir.path().join(name).display().to_string();
        let flags = ["--config", &path("config.yaml"), "--issuer-credentials", &path("creds")];
        let flags = flags.map(str::to_owned).to_vec();
        Self { flags, ..start }
    }

    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    pub fn variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    pub fn config(self, yaml: &str) -> Self {
        std::fs::write(self.dir.path().join("config.yaml"), yaml).unwrap();
        self
    }

    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.dir.path().join("creds").join(name), content).unwrap();
        self
    }

    pub fn bundle(self, stored: &sentry::core::bundle::Stored) -> Self {
        self.file("ca.crt", &stored.anchors).file("issuer.crt", &stored.chain).file("issuer.key", &stored.key)
    }

    pub fn spawn(self) -> Sentry {
        let [grpc, health, metrics, free] = [(); 4].map(|()| free_port());
        let oidc = self.oidc.unwrap_or(free);
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_sentry"))
            .args(&self.flags)
            // Go's spelling, on purpose.
            .args(["-port", &grpc.to_string(), "-healthz-port", &health.to_string()])
            .args(["--metrics-port", &metrics.to_string()])
            .args(["--oidc-server-listen-port", &oidc.to_string()])
            .env_remove("NAMESPACE")
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Sentry { child, dir: self.dir, grpc, health, metrics, oidc }
    }

    /// Starts it and waits until it is ready.
    pub async fn ready(self) -> Sentry {
        let mut sentry = self.spawn();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok((200, _, _)) = get(sentry.health, "/healthz", &[]).await {
                return sentry;
            }
            assert!(sentry.child.try_wait().unwrap().is_none(), "sentry ended: {}", sentry.log());
            assert!(Instant::now() < deadline, "sentry is not ready: {}", sentry.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts it and waits until it ends.
    pub async fn ended(self) -> (ExitStatus, String) {
        let mut sentry = self.spawn();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = sentry.child.try_wait().unwrap() {
                return (status, sentry.log());
            }
            assert!(Instant::now() < deadline, "sentry runs on: {}", sentry.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Sentry {
    pub fn log(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(self.dir.path().join("log")).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    pub fn creds(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join("creds").join(name)).unwrap()
    }

    /// A connection that trusts `anchors` and demands sentry's own name.
    pub fn channel(&self, anchors: Vec<u8>, id: &str) -> Channel {
        let anchors = Arc::new(TrustAnchors::parse(anchors).unwrap());
        let (_tx, rx) = watch::channel(Some(anchors));
        let rule = PeerRule::Exactly(SpiffeId::parse(id).unwrap());
        let tls = tls::client_anonymous(rx, rule);
        client::channel(&format!("127.0.0.1:{}", self.grpc), Some(tls)).unwrap()
    }

    pub async fn sign(&self, request: SignCertificateRequest) -> Result<SignCertificateResponse, Status> {
        let channel = self.channel(self.creds("ca.crt"), "spiffe://localhost/ns/default/dapr-sentry");
        CaClient::new(channel).sign_certificate(request).await.map(tonic::Response::into_inner)
    }

    /// The certificates sentry serves with.
    pub async fn serving_chain(&self) -> Vec<Vec<u8>> {
        let anchors = Arc::new(TrustAnchors::parse(self.creds("ca.crt")).unwrap());
        let (_tx, rx) = watch::channel(Some(anchors));
        let config = tls::client_anonymous(rx, PeerRule::AnySpiffeId);
        let tcp = TcpStream::connect(("127.0.0.1", self.grpc)).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        stream.get_ref().1.peer_certificates().unwrap().iter().map(|der| der.to_vec()).collect()
    }

    pub async fn metric(&self, name: &str) -> Option<f64> {
        let (_, _, text) = get(self.metrics, "/", &[]).await.unwrap();
        let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Ends it at once, as a crash does; its files stay until it is dropped.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends it SIGTERM.
    pub fn tell_to_end(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    /// Its end, while the tasks of this thread go on.
    pub async fn end(&mut self) -> ExitStatus {
        let status = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, status).await.expect("sentry ends")
    }

    pub fn terminate(mut self) -> ExitStatus {
        self.tell_to_end();
        self.child.wait().unwrap()
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Status, head and body of an HTTP request.
pub async fn get(port: u16, path: &str, headers: &[(&str, &str)]) -> std::io::Result<(u16, String, String)> {
    send("GET", port, path, headers).await
}

pub async fn send(
    method: &str,
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
) -> std::io::Result<(u16, String, String)> {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request.push_str(&format!("Host: localhost:{port}\r\n"));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    tcp.write_all(format!("{request}\r\n").as_bytes()).await?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok((status, head.to_lowercase(), body.to_owned()))
}
