//! The API server with its store and controllers, as plain processes.
//!
//! Both local ways of running use it: inside the node's network namespace, or on loopback when
//! there is no node.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::artifacts::Artifacts;
use crate::command::{output_with_input, succeeds};
use crate::netns::{API_SERVICE_ADDRESS, SERVICE_RANGE};
use crate::pki::{Authority, Role, Signed, service_account_key};
use crate::processes::{Processes, Program};
use crate::progress::say;
use crate::state::State;

/// The API server's port.
pub const API_PORT: u16 = 6443;
/// How long the API server may take to become ready on a busy machine.
const READY: Duration = Duration::from_mins(2);

/// Where the API server runs and what it is told of the network.
#[derive(Debug, Clone)]
pub struct Place {
    /// The address it listens on and is reached at.
    pub address: String,
    /// The network namespace of all its processes.
    pub netns: Option<PathBuf>,
}

/// Talks to an API server as its administrator.
#[derive(Debug, Clone)]
pub struct Client {
    /// The `kubectl` program.
    pub program: PathBuf,
    /// Kubeconfig of the administrator.
    pub kubeconfig: PathBuf,
}

/// Where kubectl and Helm keep what they discovered; by default under the user's home.
pub const CACHE_VARIABLE: &str = "KUBECACHEDIR";

/// The folder for [`CACHE_VARIABLE`], which goes with the cluster.
pub fn cache_beside(kubeconfig: &Path) -> PathBuf {
    kubeconfig.with_file_name("discovered")
}

impl Client {
    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> Command {
        let mut kubectl = Command::new(&self.program);
        kubectl.arg("--kubeconfig").arg(&self.kubeconfig).env(CACHE_VARIABLE, cache_beside(&self.kubeconfig));
        kubectl
    }

    /// Whether the API server says that it is ready.
    pub fn is_ready(&self) -> bool {
        succeeds(self.kubectl().args(["get", "--raw=/readyz", "--request-timeout=5s"]))
    }

    /// Applies one object, or a `List` of them.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let mut kubectl = self.kubectl();
        kubectl.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        output_with_input(&mut kubectl, &object.to_string()).map(drop)
    }
}

/// A running API server and what is needed to add parts to its cluster.
pub struct Api<'a> {
    artifacts: &'a Artifacts,
    processes: &'a Processes,
    state: &'a State,
    place: Place,
    /// The authority that signs for everyone in the cluster.
    pub authority: Authority,
    /// The administrator.
    pub client: Client,
}

impl<'a> Api<'a> {
    /// Starts etcd and the API server and waits until the latter is ready.
    pub fn start(artifacts: &'a Artifacts, processes: &'a Processes, state: &'a State, place: Place) -> Result<Self> {
        let authority = Authority::generate()?;
        let server = format!("https://{}:{API_PORT}", place.address);
        state.write("pki/ca.crt", authority.certificate())?;
        let admin = Role { file: "admin.kubeconfig", user: "admin", group: Some("system:masters") };
        let kubeconfig = authority.kubeconfig(state, &admin, &server)?;
        let client = Client { program: artifacts.kubectl(), kubeconfig };
        let api = Self { artifacts, processes, state, place, authority, client };
        api.write_keys()?;
        say("starting etcd and the API server");
        processes.start(&api.etcd()?)?;
        processes.start(&api.api_server())?;
        processes.wait_ready("kube-apiserver", READY, || api.client.is_ready())?;
        Ok(api)
    }

    /// Starts the controllers, and the scheduler if pods are to run.
    pub fn start_controllers(&self, with_scheduler: bool) -> Result<()> {
        let manager = self.kubeconfig("kube-controller-manager", "system:kube-controller-manager", None)?;
        self.processes.start(&self.controller_manager(&manager))?;
        if with_scheduler {
            let scheduler = self.kubeconfig("kube-scheduler", "system:kube-scheduler", None)?;
            self.processes.start(
                &self
                    .program("kube-scheduler")
                    .args([format!("--kubeconfig={}", scheduler.display()), "--leader-elect=false".into()]),
            )?;
        }
        Ok(())
    }

    /// A kubeconfig for a part of the cluster.
    pub fn kubeconfig(&self, part: &str, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let file = format!("pki/{part}.kubeconfig");
        let server = format!("https://{}:{API_PORT}", self.place.address);
        self.authority.kubeconfig(self.state, &Role { file: &file, user, group }, &server)
    }

    /// A program of Kubernetes in the API server's place.
    pub fn program(&self, name: &str) -> Program {
        let program = Program::new(name, self.artifacts.kubernetes.join(name));
        match &self.place.netns {
            Some(netns) => program.in_netns(netns),
            None => program,
        }
    }

    fn write_keys(&self) -> Result<()> {
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            API_SERVICE_ADDRESS,
            &self.place.address,
        ];
        self.write_pair("apiserver", &self.authority.server("kube-apiserver", &names)?)?;
        let kubelet_client = self.authority.client("kube-apiserver-kubelet-client", Some("system:masters"))?;
        self.write_pair("apiserver-kubelet-client", &kubelet_client)?;
        // The aggregation layer needs a client certificate to present, even if nobody aggregates.
        self.write_pair("front-proxy-client", &self.authority.client("front-proxy-client", None)?)?;
        self.state.write_secret("pki/sa.key", service_account_key()?)?;
        Ok(())
    }

    fn write_pair(&self, name: &str, signed: &Signed) -> Result<()> {
        self.state.write(format!("pki/{name}.crt"), &signed.certificate)?;
        self.state.write_secret(format!("pki/{name}.key"), &signed.key)?;
        Ok(())
    }

    fn etcd(&self) -> Result<Program> {
        let program = Program::new("etcd", self.artifacts.etcd.join("etcd")).args([
            format!("--data-dir={}", self.state.folder("etcd")?.display()),
            // Plain HTTP on the loopback of the cluster's own namespace.
            "--listen-client-urls=http://127.0.0.1:2379".into(),
            "--advertise-client-urls=http://127.0.0.1:2379".into(),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            "--log-level=warn".into(),
            // A test cluster's data need not survive a power cut.
            "--unsafe-no-fsync".into(),
        ]);
        Ok(match &self.place.netns {
            Some(netns) => program.in_netns(netns),
            None => program,
        })
    }

    fn pki(&self, flag: &str, file: &str) -> String {
        format!("--{flag}={}", self.state.path("pki").join(file).display())
    }

    fn api_server(&self) -> Program {
        let issuer = "https://kubernetes.default.svc.cluster.local";
        self.program("kube-apiserver").args([
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--advertise-address={}", self.place.address),
            format!("--bind-address={}", self.place.address),
            format!("--secure-port={API_PORT}"),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            "--endpoint-reconciler-type=lease".into(),
            self.pki("client-ca-file", "ca.crt"),
            self.pki("tls-cert-file", "apiserver.crt"),
            self.pki("tls-private-key-file", "apiserver.key"),
            self.pki("kubelet-certificate-authority", "ca.crt"),
            self.pki("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
            self.pki("kubelet-client-key", "apiserver-kubelet-client.key"),
            "--kubelet-preferred-address-types=InternalIP".into(),
            self.pki("requestheader-client-ca-file", "ca.crt"),
            "--requestheader-allowed-names=front-proxy-client".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            self.pki("proxy-client-cert-file", "front-proxy-client.crt"),
            self.pki("proxy-client-key-file", "front-proxy-client.key"),
            self.pki("service-account-key-file", "sa.key"),
            self.pki("service-account-signing-key-file", "sa.key"),
            format!("--service-account-issuer={issuer}"),
        ])
    }

    fn controller_manager(&self, kubeconfig: &Path) -> Program {
        self.program("kube-controller-manager").args([
            format!("--kubeconfig={}", kubeconfig.display()),
            "--leader-elect=false".into(),
            "--use-service-account-credentials=true".into(),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            self.pki("service-account-private-key-file", "sa.key"),
            self.pki("root-ca-file", "ca.crt"),
        ])
    }
}
