//! Access to the cluster: its objects by `kube`, its pods' HTTP ports through the API server.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::progress::say;

/// No answer of a pod may take longer; the slowest check waits 90 s inside.
const ANSWER_LIMIT: Duration = Duration::from_mins(2);

/// A cluster that answers.
#[derive(Clone)]
pub struct Access {
    client: Client,
}

/// What a pod answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Warnings that the API server sent along.
    pub warnings: Vec<String>,
    /// Body as text.
    pub body: String,
}

/// What the samples answer to a check.
#[derive(Debug, Clone, Deserialize)]
pub struct Verdict {
    /// Whether it held.
    pub ok: bool,
    /// What was seen.
    pub seen: String,
    /// Where to look if it did not hold.
    #[serde(default)]
    pub look: String,
}

/// A port of a pod.
#[derive(Debug, Clone, Copy)]
pub struct Port<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name.
    pub pod: &'a str,
    /// The port's number.
    pub number: u16,
}

impl Access {
    /// The cluster that runs now. Tests need one and must not pass without it.
    pub async fn running() -> Result<Self> {
        let cluster = Cluster::current().context("these tests need the cluster that `make e2e` brings up")?;
        Self::to(&cluster).await
    }

    /// Connects to a cluster and asks its API server for its version.
    pub async fn to(cluster: &Cluster) -> Result<Self> {
        let client = cluster.client().await?;
        let version = client.apiserver_version().await.context("ask the API server for its version")?;
        say(format!("the API server is {}", version.git_version));
        Ok(Self { client })
    }

    /// The client beneath.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Pods that carry the label `app`, without those that are going away, by name.
    pub async fn pods(&self, namespace: &str, app: &str) -> Result<Vec<Pod>> {
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let list = api.list(&ListParams::default().labels(&format!("app={app}"))).await;
        let mut pods = list.with_context(|| format!("list the pods of {app} in {namespace}"))?.items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(pods)
    }

    /// Names of [`Access::pods`].
    pub async fn pod_names(&self, namespace: &str, app: &str) -> Result<Vec<String>> {
        Ok(self.pods(namespace, app).await?.into_iter().filter_map(|pod| pod.metadata.name).collect())
    }

    /// One HTTP request to a pod's port, through the API server.
    pub async fn ask(&self, port: Port<'_>, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let Port { namespace, pod, number } = port;
        let url = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{number}/proxy{path}");
        self.raw(method, &url, &[], body).await.with_context(|| format!("{method} {path} of pod {pod}"))
    }

    /// The JSON that a pod answers with 200.
    pub async fn ask_json(&self, port: Port<'_>, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.ask(port, method, path, body).await?;
        if answer.status != 200 {
            bail!("{method} {path} of pod {} answered {}: {}", port.pod, answer.status, answer.body.trim());
        }
        serde_json::from_str(&answer.body).with_context(|| format!("{method} {path} answered no JSON"))
    }

    /// What a check of the samples found, whether it held or not.
    pub async fn verdict(&self, port: Port<'_>, path: &str) -> Result<Verdict> {
        let answer = self.ask(port, "GET", path, None).await?;
        serde_json::from_str(&answer.body)
            .with_context(|| format!("{path} of pod {} answered {}: {}", port.pod, answer.status, answer.body.trim()))
    }

    /// One request to the API server, with its status and warnings as they are.
    pub async fn raw(&self, method: &str, url: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Result<Answer> {
        let mut request = http::Request::builder().method(method).uri(url).header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let request = request.body(Body::from(bytes))?;
        let exchange = async {
            let response = self.client.send(request).await?;
            let status = response.status().as_u16();
            let warnings = response.headers().get_all("Warning").iter();
            let warnings = warnings.filter_map(|w| w.to_str().ok().map(str::to_owned)).collect();
            let body = response.into_body().collect_bytes().await?;
            anyhow::Ok(Answer { status, warnings, body: String::from_utf8_lossy(&body).into_owned() })
        };
        tokio::time::timeout(ANSWER_LIMIT, exchange).await.context("no answer in time")?
    }
}
