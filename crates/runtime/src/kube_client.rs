//! The way to the API server.

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::args::KubeArgs;

/// Why no client for the API server can be made.
#[derive(Debug, thiserror::Error)]
pub enum KubeConfigError {
    /// The file of `--kubeconfig` or `$KUBECONFIG` cannot be used.
    #[error("kubeconfig {path} cannot be used")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// Neither a pod's credentials nor a kubeconfig file were found.
    #[error("no access to Kubernetes: not in a pod, and no usable kubeconfig (set --kubeconfig or $KUBECONFIG)")]
    None(#[source] Box<kube::config::InferConfigError>),
    /// The credentials found cannot be turned into a client.
    #[error("the credentials found for Kubernetes cannot be used")]
    Client(#[source] Box<kube::Error>),
}

/// A client: by `--kubeconfig`, else `$KUBECONFIG`, else the pod's own credentials, else
/// `~/.kube/config`. Makes no request.
pub async fn kube_client(args: &KubeArgs) -> Result<Client, KubeConfigError> {
    let config = if args.kubeconfig.is_empty() { inferred().await? } else { from_file(&args.kubeconfig).await? };
    Client::try_from(config).map_err(|source| KubeConfigError::Client(Box::new(source)))
}

async fn from_file(path: &str) -> Result<Config, KubeConfigError> {
    let fail = |source| KubeConfigError::File { path: path.to_owned(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(fail)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(fail)
}

async fn inferred() -> Result<Config, KubeConfigError> {
    if std::env::var_os("KUBECONFIG").is_none()
        && let Ok(config) = Config::incluster()
    {
        return Ok(config);
    }
    Config::infer().await.map_err(|source| KubeConfigError::None(Box::new(source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unusable_kubeconfig_is_named() {
        let args = KubeArgs { kubeconfig: "/no/such/file".into() };
        let error = kube_client(&args).await.err().expect("there is no such file");
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
