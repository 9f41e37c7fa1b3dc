//! The API for sidecars: who asks is checked first, then the hub answers.
//!
//! The app id always comes from the peer's certificate, and the namespace asked for must be
//! the certificate's. Lists are filtered by scope on this side too: sidecars would drop the
//! rest anyway, and must not see the rest's secrets.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use identity::{Namespace, peer, server::Incoming};
use proto::operator::v1::{
    self as wire,
    operator_server::{Operator, OperatorServer},
};
use runtime::{BoxError, CancellationToken};
use tonic::{Request, Response, Status};

use crate::{
    core::{
        api_kind::ApiKind,
        catalog::{Change, Listed},
        generation::Generation,
        wire::{ObjectKey, Viewer},
    },
    hub::{Events, Hub, Unresolved},
    status::Refusal,
};

/// A dead peer is noticed after this and the time-out below.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long calls may take to finish once the process stops.
const GRACE: Duration = Duration::from_secs(5);

/// The service.
pub struct Api {
    hub: Arc<Hub>,
    watched: Option<Namespace>,
    stop: CancellationToken,
}

/// A caller whose identity was checked.
struct Caller {
    viewer: Viewer,
    connection: Option<SocketAddr>,
    generation: Generation,
}

type Stopping = Pin<Box<dyn Future<Output = ()> + Send>>;
type EventStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves `hub` until `stop`.
pub async fn serve(
    incoming: Incoming,
    hub: Arc<Hub>,
    watched: Option<Namespace>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let api = Api { hub, watched, stop: stop.clone() };
    let graceful = stop.clone();
    let stopping: Stopping = Box::pin(async move { graceful.cancelled().await });
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(OperatorServer::new(api))
        .serve_with_incoming_shutdown(incoming, stopping);
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = server => served.map_err(Into::into),
        () = overdue => Ok(()),
    }
}

impl Api {
    /// The caller, if it may ask for `namespace`.
    fn authorize<T>(request: &Request<T>, namespace: &str) -> Result<Caller, Refusal> {
        let id = peer::id_of(request).map_err(|error| {
            tracing::info!(%error, "request without a Dapr identity");
            Refusal::NoIdentity
        })?;
        if id.namespace().as_str() != namespace {
            tracing::info!(%id, requested = namespace, "request for a foreign namespace");
            return Err(Refusal::OtherNamespace {
                requested: namespace.to_owned(),
                identity: id.namespace().to_string(),
            });
        }
        let agent = request.metadata().get("user-agent").and_then(|agent| agent.to_str().ok());
        Ok(Caller {
            viewer: Viewer::from(&id),
            connection: peer::of(request).map(identity::Peer::remote_addr),
            generation: Generation::of_user_agent(agent.unwrap_or_default()),
        })
    }

    fn check_watched(&self, caller: &Caller, action: &'static str) -> Result<(), Refusal> {
        match &self.watched {
            Some(watched) if *watched != caller.viewer.namespace => {
                Err(Refusal::Unwatched { action, namespace: caller.viewer.namespace.to_string() })
            }
            _ => Ok(()),
        }
    }

    async fn list<T>(
        &self,
        request: &Request<T>,
        namespace: &str,
        (kind, action): (ApiKind, &'static str),
    ) -> Result<Vec<Bytes>, Refusal> {
        let caller = Self::authorize(request, namespace)?;
        self.check_watched(&caller, action)?;
        let runs = caller.connection.is_some_and(|peer| self.hub.has_component_stream(peer));
        let unresolved = if runs { Unresolved::Refuse } else { Unresolved::Show };
        let versions = self.hub.list(kind, &caller.viewer, unresolved).await?;
        Ok(versions.iter().map(|version| version.json_for(caller.generation).clone()).collect())
    }

    async fn get(&self, caller: &Caller, (kind, action): (ApiKind, String), name: String) -> Result<Bytes, Refusal> {
        let key = ObjectKey { namespace: caller.viewer.namespace.clone(), name };
        match self.hub.get(kind, &key).await? {
            Some(Listed::Whole(version) | Listed::Partial(version)) => Ok(version.json_for(caller.generation).clone()),
            Some(Listed::Refused(reason)) => {
                tracing::warn!(object = %key, %reason, "error processing configuration secrets");
                Err(Refusal::ConfigurationSecrets(reason.to_string()))
            }
            Some(Listed::Waiting) | None => Err(Refusal::NotFound { action, kind: kind.name(), name: key.name }),
        }
    }

    /// Opens a stream whose messages `message` makes. It begins once the kind is known, so
    /// nothing of the first list is lost or repeated.
    fn stream<T: Send + 'static>(
        &self,
        kind: ApiKind,
        caller: Caller,
        message: fn(Bytes, i32) -> T,
    ) -> Response<EventStream<T>> {
        tracing::debug!(
            ns = %caller.viewer.namespace,
            app_id = %caller.viewer.app_id,
            "sidecar connected for {} updates",
            kind.name()
        );
        let Caller { viewer, connection, generation } = caller;
        let (hub, stop) = (Arc::clone(&self.hub), self.stop.clone());
        let opened = async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => None,
                () = hub.until_synced(kind) => {
                    Some(hub.subscribe(kind, viewer, connection, stop.clone()))
                }
            }
        };
        let state = Opening::Soon(Box::pin(opened));
        Response::new(Box::pin(stream::unfold(state, move |state| async move {
            let mut events = match state {
                Opening::Soon(opened) => opened.await,
                Opening::Open(events) => Some(events),
                Opening::Over => return None,
            };
            let event = match &mut events {
                Some(events) => events.next().await,
                None => None,
            };
            match (event, events) {
                (Some(event), Some(events)) => {
                    let json = event.version.json_for(generation).clone();
                    Some((Ok(message(json, event_type(event.change))), Opening::Open(events)))
                }
                _ => Some((Err(Refusal::ShuttingDown.into()), Opening::Over)),
            }
        })))
    }
}

enum Opening {
    Soon(Pin<Box<dyn Future<Output = Option<Events>> + Send>>),
    Open(Events),
    Over,
}

fn event_type(change: Change) -> i32 {
    let event_type = match change {
        Change::Created => wire::ResourceEventType::Created,
        Change::Updated => wire::ResourceEventType::Updated,
        Change::Deleted => wire::ResourceEventType::Deleted,
    };
    event_type.into()
}

macro_rules! lists {
    ($self:ident, $request:ident, $kind:expr, $action:literal) => {{
        let namespace = $request.get_ref().namespace.clone();
        $self.list(&$request, &namespace, ($kind, $action)).await?
    }};
}

macro_rules! updates {
    ($self:ident, $request:ident, $kind:expr, $event:ident { $field:ident }) => {{
        let caller = Self::authorize(&$request, &$request.get_ref().namespace)?;
        Ok($self.stream($kind, caller, |$field, r#type| wire::$event { $field, r#type }))
    }};
}

#[tonic::async_trait]
impl Operator for Api {
    type ComponentUpdateStream = EventStream<wire::ComponentUpdateEvent>;
    type SubscriptionUpdateStream = EventStream<wire::SubscriptionUpdateEvent>;
    type HTTPEndpointUpdateStream = EventStream<wire::HttpEndpointUpdateEvent>;
    type MCPServerUpdateStream = EventStream<wire::McpServerUpdateEvent>;
    type ConfigurationUpdateStream = EventStream<wire::ConfigurationUpdateEvent>;
    type ResiliencyUpdateStream = EventStream<wire::ResiliencyUpdateEvent>;
    type WorkflowAccessPolicyUpdateStream = EventStream<wire::WorkflowAccessPolicyUpdateEvent>;

    async fn list_components(
        &self,
        request: Request<wire::ListComponentsRequest>,
    ) -> Result<Response<wire::ListComponentResponse>, Status> {
        let components = lists!(self, request, ApiKind::Component, "error getting components");
        Ok(Response::new(wire::ListComponentResponse { components }))
    }

    async fn component_update(
        &self,
        request: Request<wire::ComponentUpdateRequest>,
    ) -> Result<Response<Self::ComponentUpdateStream>, Status> {
        updates!(self, request, ApiKind::Component, ComponentUpdateEvent { component })
    }

    async fn get_configuration(
        &self,
        request: Request<wire::GetConfigurationRequest>,
    ) -> Result<Response<wire::GetConfigurationResponse>, Status> {
        let wire::GetConfigurationRequest { name, namespace } = request.get_ref().clone();
        let caller = Self::authorize(&request, &namespace)?;
        self.check_watched(&caller, "error getting configuration")?;
        let action = format!("error getting configuration {namespace}/{name}");
        let configuration = self.get(&caller, (ApiKind::Configuration, action), name).await?;
        Ok(Response::new(wire::GetConfigurationResponse { configuration }))
    }

    /// Upstream asks on the caller's behalf for an empty namespace, which nobody may.
    async fn list_subscriptions(
        &self,
        request: Request<()>,
    ) -> Result<Response<wire::ListSubscriptionsResponse>, Status> {
        let action = (ApiKind::Subscription, "error getting subscriptions");
        let subscriptions = self.list(&request, "", action).await?;
        Ok(Response::new(wire::ListSubscriptionsResponse { subscriptions }))
    }

    async fn list_subscriptions_v2(
        &self,
        request: Request<wire::ListSubscriptionsRequest>,
    ) -> Result<Response<wire::ListSubscriptionsResponse>, Status> {
        let subscriptions = lists!(self, request, ApiKind::Subscription, "error getting subscriptions");
        Ok(Response::new(wire::ListSubscriptionsResponse { subscriptions }))
    }

    async fn subscription_update(
        &self,
        request: Request<wire::SubscriptionUpdateRequest>,
    ) -> Result<Response<Self::SubscriptionUpdateStream>, Status> {
        updates!(self, request, ApiKind::Subscription, SubscriptionUpdateEvent { subscription })
    }

    async fn get_resiliency(
        &self,
        request: Request<wire::GetResiliencyRequest>,
    ) -> Result<Response<wire::GetResiliencyResponse>, Status> {
        let wire::GetResiliencyRequest { name, namespace } = request.get_ref().clone();
        let caller = Self::authorize(&request, &namespace)?;
        self.check_watched(&caller, "error getting resiliency")?;
        let action = "error getting resiliency".to_owned();
        let resiliency = self.get(&caller, (ApiKind::Resiliency, action), name).await?;
        Ok(Response::new(wire::GetResiliencyResponse { resiliency }))
    }

    async fn list_resiliency(
        &self,
        request: Request<wire::ListResiliencyRequest>,
    ) -> Result<Response<wire::ListResiliencyResponse>, Status> {
        let resiliencies = lists!(self, request, ApiKind::Resiliency, "error listing resiliencies");
        Ok(Response::new(wire::ListResiliencyResponse { resiliencies }))
    }

    async fn resiliency_update(
        &self,
        request: Request<wire::ResiliencyUpdateRequest>,
    ) -> Result<Response<Self::ResiliencyUpdateStream>, Status> {
        updates!(self, request, ApiKind::Resiliency, ResiliencyUpdateEvent { resiliency })
    }

    async fn list_http_endpoints(
        &self,
        request: Request<wire::ListHttpEndpointsRequest>,
    ) -> Result<Response<wire::ListHttpEndpointsResponse>, Status> {
        let http_endpoints = lists!(self, request, ApiKind::HttpEndpoint, "error listing http endpoints");
        Ok(Response::new(wire::ListHttpEndpointsResponse { http_endpoints }))
    }

    async fn http_endpoint_update(
        &self,
        request: Request<wire::HttpEndpointUpdateRequest>,
    ) -> Result<Response<Self::HTTPEndpointUpdateStream>, Status> {
        updates!(self, request, ApiKind::HttpEndpoint, HttpEndpointUpdateEvent { http_endpoints })
    }

    async fn list_mcp_servers(
        &self,
        request: Request<wire::ListMcpServersRequest>,
    ) -> Result<Response<wire::ListMcpServersResponse>, Status> {
        let mcp_servers = lists!(self, request, ApiKind::McpServer, "error listing MCP servers");
        Ok(Response::new(wire::ListMcpServersResponse { mcp_servers }))
    }

    async fn mcp_server_update(
        &self,
        request: Request<wire::McpServerUpdateRequest>,
    ) -> Result<Response<Self::MCPServerUpdateStream>, Status> {
        updates!(self, request, ApiKind::McpServer, McpServerUpdateEvent { mcp_server })
    }

    async fn configuration_update(
        &self,
        request: Request<wire::ConfigurationUpdateRequest>,
    ) -> Result<Response<Self::ConfigurationUpdateStream>, Status> {
        let caller = Self::authorize(&request, &request.get_ref().namespace)
            .map_err(|refusal| Refusal::Configuration(Box::new(refusal)))?;
        Ok(self.stream(ApiKind::Configuration, caller, |configuration, r#type| wire::ConfigurationUpdateEvent {
            configuration,
            r#type,
        }))
    }

    async fn list_workflow_access_policy(
        &self,
        request: Request<wire::ListWorkflowAccessPolicyRequest>,
    ) -> Result<Response<wire::ListWorkflowAccessPolicyResponse>, Status> {
        let policies = lists!(self, request, ApiKind::WorkflowAccessPolicy, "error listing workflow access policies");
        Ok(Response::new(wire::ListWorkflowAccessPolicyResponse { policies }))
    }

    async fn workflow_access_policy_update(
        &self,
        request: Request<wire::WorkflowAccessPolicyUpdateRequest>,
    ) -> Result<Response<Self::WorkflowAccessPolicyUpdateStream>, Status> {
        updates!(self, request, ApiKind::WorkflowAccessPolicy, WorkflowAccessPolicyUpdateEvent { policy })
    }
}
