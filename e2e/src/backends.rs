//! Valkey, Kafka, OpenBao and MinIO under the names that the acceptance manifests use.
//!
//! They are plain processes beside the node. Services without selectors and EndpointSlices lead to
//! them, so that an application finds them as it would find a backend in the cluster.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::Client;
use crate::artifacts::BackendArtifacts;
use crate::command::output;
use crate::http;
use crate::netns::{self, NODE_ADDRESS};
use crate::processes::{Processes, Program};
use crate::progress::say;
use crate::state::State;

/// Where the acceptance manifests are.
pub const APPLICATION_NAMESPACE: &str = "fuse";
/// The bucket that `component-s3-output.yaml` writes to.
pub const BUCKET: &str = "fuse-exports";
/// How long a backend may take to answer; Kafka's Java is the slowest.
const READY: Duration = Duration::from_secs(90);
/// Any 16 bytes in base64: Kafka wants its cluster to have an id.
const KAFKA_CLUSTER_ID: &str = "ZGFwci1lMmUta2Fma2EtMQ";
/// Kafka's listeners beside the one for clients.
const KAFKA_BROKER_PORT: u16 = 9092;
const KAFKA_CONTROLLER_PORT: u16 = 9094;

/// One backend: the Service it is reached by.
#[derive(Debug, Clone, Copy)]
pub struct Backend {
    /// Name of its process and log.
    pub name: &'static str,
    /// Namespace of its Service.
    pub namespace: &'static str,
    /// Name of its Service.
    pub service: &'static str,
    /// Port of the Service and of the process.
    pub port: u16,
}

/// Valkey: state, locks and configuration.
pub const VALKEY: Backend = Backend { name: "valkey", namespace: "cache", service: "valkey", port: 6379 };
/// Kafka: publish and subscribe.
pub const KAFKA: Backend =
    Backend { name: "kafka", namespace: "messaging", service: "strimzi-kafka-bootstrap", port: 9093 };
/// OpenBao: secrets.
pub const OPENBAO: Backend = Backend { name: "openbao", namespace: "security", service: "openbao", port: 8200 };
/// MinIO: objects.
pub const MINIO: Backend = Backend { name: "minio", namespace: "storage", service: "minio", port: 9000 };
/// All of them.
pub const ALL: [Backend; 4] = [VALKEY, KAFKA, OPENBAO, MINIO];

/// The secrets of the backends, made at random for each cluster.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// Valkey's password.
    pub valkey_password: String,
    /// OpenBao's root token.
    pub openbao_token: String,
    /// MinIO's access key.
    pub minio_access_key: String,
    /// MinIO's secret key.
    pub minio_secret_key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// Those of the cluster in this folder, made now if there are none yet.
    pub fn of(state: &State) -> Result<Self> {
        const FILE: &str = "backends.json";
        if let Some(known) = state.load(FILE)? {
            return Ok(known);
        }
        let made = Self {
            valkey_password: random(24),
            // Without a dot: OpenBao reads what follows one as a namespace.
            openbao_token: random(26),
            minio_access_key: random(16),
            minio_secret_key: random(32),
        };
        state.save(FILE, &made)?;
        Ok(made)
    }
}

/// Starts the backends that do not run yet and waits for all; then puts their objects in place.
pub fn start(client: &Client, artifacts: &BackendArtifacts, processes: &Processes, state: &State) -> Result<()> {
    let credentials = Credentials::of(state)?;
    if ALL.iter().any(|backend| !processes.is_alive(backend.name)) {
        say("starting Valkey, Kafka, OpenBao and MinIO");
    }
    if !processes.is_alive(KAFKA.name) {
        processes.start(&kafka(&artifacts.kafka, state)?)?;
    }
    processes.start(&valkey(&artifacts.valkey, &credentials, state)?)?;
    processes.start(&openbao(&artifacts.openbao, &credentials))?;
    processes.start(&minio(&artifacts.minio, &credentials, state)?)?;
    client.apply(&objects())?;
    client.apply(&application_objects(&credentials))?;
    for backend in ALL {
        processes.wait_ready(backend.name, READY, || answers(backend))?;
    }
    Ok(())
}

/// Whether a backend answers at the node's address.
pub fn answers(backend: Backend) -> bool {
    let path = match backend.name {
        "openbao" => "/v1/sys/health",
        "minio" => "/minio/health/ready",
        _ => return TcpStream::connect((NODE_ADDRESS, backend.port)).is_ok(),
    };
    http::get(NODE_ADDRESS, backend.port, path).is_ok_and(|answer| answer.status == 200)
}

fn valkey(server: &Path, credentials: &Credentials, state: &State) -> Result<Program> {
    let config = format!(
        "bind {NODE_ADDRESS}\nport {}\nprotected-mode yes\nrequirepass {}\nsave \"\"\nappendonly no\n\
         dir {}\n# Without these events a configuration store cannot tell of changes.\nnotify-keyspace-events KEA\n",
        VALKEY.port,
        credentials.valkey_password,
        state.folder("valkey")?.display()
    );
    let config = state.write_secret("valkey/valkey.conf", config)?;
    Ok(Program::new(VALKEY.name, server).args([config.display().to_string()]).in_netns(&netns::file()))
}

fn openbao(server: &Path, credentials: &Credentials) -> Program {
    Program::new(OPENBAO.name, server)
        .args(["server", "-dev", "-dev-no-store-token"])
        .args([format!("-dev-listen-address={NODE_ADDRESS}:{}", OPENBAO.port)])
        .env("BAO_DEV_ROOT_TOKEN_ID", &credentials.openbao_token)
        .in_netns(&netns::file())
}

fn minio(folder: &Path, credentials: &Credentials, state: &State) -> Result<Program> {
    let data = state.folder("minio")?;
    // A folder in the data folder is a bucket.
    state.folder(Path::new("minio").join(BUCKET))?;
    Ok(Program::new(MINIO.name, folder.join("minio"))
        .args(["server".to_owned(), format!("--address={NODE_ADDRESS}:{}", MINIO.port)])
        .args([data.display().to_string()])
        .env("MINIO_ROOT_USER", &credentials.minio_access_key)
        .env("MINIO_ROOT_PASSWORD", &credentials.minio_secret_key)
        .env("MINIO_BROWSER", "off")
        .env("MINIO_UPDATE", "off")
        .in_netns(&netns::file()))
}

fn kafka(jars: &Path, state: &State) -> Result<Program> {
    let data = state.folder("kafka/data")?;
    let config = state.write("kafka/server.properties", kafka_config(&data))?;
    let classes = format!("{}/*", jars.display());
    if !data.join("meta.properties").exists() {
        let mut format = Command::new("java");
        format.args(["-cp", &classes, "kafka.tools.StorageTool", "format", "-t", KAFKA_CLUSTER_ID, "-c"]).arg(&config);
        output(&mut format).context("format Kafka's storage")?;
    }
    Ok(Program::new(KAFKA.name, "java")
        .args(["-Xms96m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", &classes, "kafka.Kafka"])
        .args([config.display().to_string()])
        .in_netns(&netns::file()))
}

fn kafka_config(data: &Path) -> String {
    let client = KAFKA.port;
    format!(
        "process.roles=broker,controller\nnode.id=1\n\
         controller.quorum.voters=1@{NODE_ADDRESS}:{KAFKA_CONTROLLER_PORT}\n\
         listeners=CLIENT://{NODE_ADDRESS}:{client},BROKER://{NODE_ADDRESS}:{KAFKA_BROKER_PORT},\
         CONTROLLER://{NODE_ADDRESS}:{KAFKA_CONTROLLER_PORT}\n\
         advertised.listeners=CLIENT://{}.{}.svc:{client},BROKER://{NODE_ADDRESS}:{KAFKA_BROKER_PORT}\n\
         listener.security.protocol.map=CLIENT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         inter.broker.listener.name=BROKER\ncontroller.listener.names=CONTROLLER\n\
         log.dirs={}\nauto.create.topics.enable=true\noffsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=1\ntransaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\nshare.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n",
        KAFKA.service,
        KAFKA.namespace,
        data.display()
    )
}

fn objects() -> Value {
    let items: Vec<Value> = ALL.into_iter().flat_map(|b| [namespace(b.namespace), service(b), endpoints(b)]).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// The namespace of the applications and the Secrets in it that the acceptance manifests name.
pub fn application_objects(credentials: &Credentials) -> Value {
    let minio = json!({ "access-key": credentials.minio_access_key, "secret-key": credentials.minio_secret_key });
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        namespace(APPLICATION_NAMESPACE),
        secret(APPLICATION_NAMESPACE, "valkey-credentials", &json!({ "password": credentials.valkey_password })),
        secret(APPLICATION_NAMESPACE, "openbao-token", &json!({ "token": credentials.openbao_token })),
        secret(APPLICATION_NAMESPACE, "minio-credentials", &minio),
    ]})
}

/// The backends' namespaces, each with a Secret `backend` from which a backend in a pod takes its passwords.
pub fn backend_secrets(credentials: &Credentials) -> Value {
    let values = json!({
        "valkey-password": credentials.valkey_password,
        "openbao-token": credentials.openbao_token,
        "minio-access-key": credentials.minio_access_key,
        "minio-secret-key": credentials.minio_secret_key,
    });
    let items: Vec<Value> =
        ALL.into_iter().flat_map(|b| [namespace(b.namespace), secret(b.namespace, "backend", &values)]).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

fn secret(namespace: &str, name: &str, values: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name, "namespace": namespace },
        "stringData": values,
    })
}

fn service(backend: Backend) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": backend.service, "namespace": backend.namespace },
        "spec": { "ports": [{ "name": backend.name, "port": backend.port }] },
    })
}

fn endpoints(backend: Backend) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-node", backend.service),
            "namespace": backend.namespace,
            "labels": { "kubernetes.io/service-name": backend.service },
        },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [NODE_ADDRESS], "conditions": { "ready": true } }],
        "ports": [{ "name": backend.name, "port": backend.port }],
    })
}

fn random(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn credentials_stay_the_same_for_a_cluster_and_differ_between_clusters() {
        let one = tempfile::tempdir().unwrap();
        let two = tempfile::tempdir().unwrap();
        let first = Credentials::of(&State::at(one.path().into())).unwrap();
        let again = Credentials::of(&State::at(one.path().into())).unwrap();
        let other = Credentials::of(&State::at(two.path().into())).unwrap();
        assert_eq!(first.valkey_password, again.valkey_password);
        assert_ne!(first.valkey_password, other.valkey_password);
    }

    #[test]
    fn services_lead_to_the_addresses_in_the_acceptance_manifests() {
        let folder = crate::modules::package_folder().join("acceptance");
        let manifests: String =
            fs::read_dir(folder).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
        for backend in ALL {
            let address = format!("{}.{}.svc:{}", backend.service, backend.namespace, backend.port);
            assert!(manifests.contains(&address), "{address}");
        }
        assert!(manifests.contains(BUCKET));
    }
}
