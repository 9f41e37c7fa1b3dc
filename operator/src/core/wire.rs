//! A stored object, read once: who it is, whom it is for, and its wire form.
//!
//! Reading is the only place that looks inside an object. It fails for one object at a
//! time, with an error that names object and field.

use identity::{AppId, Namespace, SpiffeId};
use serde_json::value::RawValue;

use super::{
    api_kind::ApiKind,
    golang,
    shape::{self, Encoder, Field, RawMap, Resolve, ShapeError, Site, present, read_map},
    shapes,
    template::{AbsentKey, SecretEncoding, Template},
};

/// The name of an object of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A sidecar that asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Viewer {
    /// The namespace of its identity.
    pub namespace: Namespace,
    /// The app id of its identity.
    pub app_id: AppId,
}

impl From<&SpiffeId> for Viewer {
    fn from(id: &SpiffeId) -> Self {
        Self { namespace: id.namespace().clone(), app_id: id.app_id().clone() }
    }
}

/// The apps an object is for: all of its namespace, or those listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(Vec<String>);

impl Scopes {
    /// The scopes of a manifest.
    pub fn new(apps: Vec<String>) -> Self {
        Self(apps)
    }

    /// Whether `app` is among them. Exact, case-sensitive comparison.
    pub fn include(&self, app: &AppId) -> bool {
        self.0.is_empty() || self.0.iter().any(|scope| scope == app.as_str())
    }
}

/// An object as read from the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub key: ObjectKey,
    /// Its version; empty only in tests.
    pub resource_version: String,
    /// The apps it is for.
    pub scopes: Scopes,
    /// Its wire form.
    pub template: Template,
    /// Its wire form for v1.16 sidecars, where they need another.
    pub v1_16: Option<Template>,
}

/// An object cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {object} is left out: {reason}")]
pub struct Unreadable {
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace and name, as far as known.
    pub object: String,
    /// What is wrong.
    pub reason: String,
}

/// Reads the JSON of one object of `kind`.
pub fn read(kind: ApiKind, json: &str) -> Result<Object, Unreadable> {
    let mut object = String::from("with unreadable metadata");
    read_object(kind, json, &mut object).map_err(|error| Unreadable {
        kind: kind.name(),
        object,
        reason: error.to_string(),
    })
}

fn read_object(kind: ApiKind, json: &str, label: &mut String) -> Result<Object, ShapeError> {
    let raw: &RawValue = serde_json::from_str(json).map_err(|error| ShapeError {
        path: "(root)".to_owned(),
        found: error.to_string(),
        expected: "JSON",
    })?;
    let mut members = read_map(raw, "(root)")?;
    let Head { namespace, name, resource_version } = read_head(&members)?;
    *label = format!("{namespace}/{name}");
    let namespace = Namespace::parse(&namespace).map_err(|_| ShapeError {
        path: "metadata.namespace".to_owned(),
        found: format!("{namespace:?}"),
        expected: "the name of a namespace",
    })?;
    let unfolded;
    if kind == ApiKind::Subscription {
        unfolded = Unfolded::of(&members)?;
        unfolded.put_into(&mut members);
    }
    let scopes = if kind == ApiKind::Configuration {
        Vec::new()
    } else {
        shape::read_texts(members.get("scopes").copied(), "scopes")?
    };
    let resolve = resolve_rule(kind, &members)?;
    let template = encode(kind, &members, fields(kind), resolve)?;
    let v1_16 = match kind {
        ApiKind::Configuration => Some(encode(kind, &members, CONFIGURATION_V1_16, None)?)
            .filter(|v1_16| v1_16.unresolved() != template.unresolved()),
        _ => None,
    };
    Ok(Object { key: ObjectKey { namespace, name }, resource_version, scopes: Scopes::new(scopes), template, v1_16 })
}

struct Head {
    namespace: String,
    name: String,
    resource_version: String,
}

fn read_head(members: &RawMap<'_>) -> Result<Head, ShapeError> {
    let metadata = match members.get("metadata") {
        Some(raw) => read_map(raw, "metadata")?,
        None => RawMap::new(),
    };
    let text = |key: &str| shape::read_text(metadata.get(key).copied(), &format!("metadata.{key}"));
    Ok(Head { namespace: text("namespace")?, name: text("name")?, resource_version: text("resourceVersion")? })
}

type Fields = &'static [&'static Field];

const COMPONENT: Fields = &[&shapes::METADATA, &shapes::COMPONENT, &shapes::AUTH, &shapes::SCOPES];
const CONFIGURATION: Fields = &[&shapes::METADATA, &shapes::CONFIGURATION];
const CONFIGURATION_V1_16: Fields = &[&shapes::METADATA, &shapes::CONFIGURATION_V1_16];
const HTTP_ENDPOINT: Fields = &[&shapes::METADATA, &shapes::HTTP_ENDPOINT, &shapes::AUTH, &shapes::SCOPES];
const MCP_SERVER: Fields = &[&shapes::METADATA, &shapes::MCP_SERVER, &shapes::SCOPES];
const RESILIENCY: Fields = &[&shapes::METADATA, &shapes::RESILIENCY, &shapes::SCOPES];
const SUBSCRIPTION: Fields = &[&shapes::METADATA, &shapes::SUBSCRIPTION, &shapes::SCOPES];
const WORKFLOW_ACCESS_POLICY: Fields = &[&shapes::METADATA, &shapes::WORKFLOW_ACCESS_POLICY, &shapes::SCOPES];

fn fields(kind: ApiKind) -> Fields {
    match kind {
        ApiKind::Component => COMPONENT,
        ApiKind::Configuration => CONFIGURATION,
        ApiKind::HttpEndpoint => HTTP_ENDPOINT,
        ApiKind::McpServer => MCP_SERVER,
        ApiKind::Resiliency => RESILIENCY,
        ApiKind::Subscription => SUBSCRIPTION,
        ApiKind::WorkflowAccessPolicy => WORKFLOW_ACCESS_POLICY,
    }
}

fn encode(
    kind: ApiKind,
    members: &RawMap<'_>,
    fields: Fields,
    resolve: Option<Resolve>,
) -> Result<Template, ShapeError> {
    let mut encoder = Encoder::new(resolve);
    encoder.literal(&format!(r#"{{"kind":"{}","apiVersion":"{}""#, kind.name(), kind.api_version()));
    for field in fields {
        encoder.field(",", members.get(field.key).copied(), field)?;
    }
    encoder.literal("}");
    Ok(encoder.finish().finish())
}

/// Which references of an object the operator resolves (contract operator.md §6).
fn resolve_rule(kind: ApiKind, members: &RawMap<'_>) -> Result<Option<Resolve>, ShapeError> {
    let (site, store, encoding, absent_key) = match kind {
        ApiKind::Component => (Site::Component, auth_store(members)?, SecretEncoding::Base64, AbsentKey::KeepsValue),
        ApiKind::HttpEndpoint => (Site::Endpoint, auth_store(members)?, SecretEncoding::Base64, AbsentKey::MakesNull),
        ApiKind::McpServer => {
            let Some((site, store)) = mcp_transport(members)? else {
                return Ok(None);
            };
            (site, store, SecretEncoding::Base64, AbsentKey::MakesNull)
        }
        ApiKind::Configuration => (Site::Otel, String::new(), SecretEncoding::Plain, AbsentKey::Refuses),
        ApiKind::Resiliency | ApiKind::Subscription | ApiKind::WorkflowAccessPolicy => {
            return Ok(None);
        }
    };
    let is_ours = store.is_empty() || store == "kubernetes";
    Ok(is_ours.then_some(Resolve { site, encoding, absent_key }))
}

fn auth_store(members: &RawMap<'_>) -> Result<String, ShapeError> {
    match present(members.get("auth").copied()) {
        None => Ok(String::new()),
        Some(auth) => {
            let auth = read_map(auth, "auth")?;
            shape::read_text(auth.get("secretStore").copied(), "auth.secretStore")
        }
    }
}

/// The first transport an MCPServer configures, and the secret store it names.
fn mcp_transport(members: &RawMap<'_>) -> Result<Option<(Site, String)>, ShapeError> {
    const TRANSPORTS: [(&str, Site); 3] =
        [("streamableHTTP", Site::McpStreamableHttp), ("sse", Site::McpSse), ("stdio", Site::McpStdio)];
    let Some(spec) = present(members.get("spec").copied()) else {
        return Ok(None);
    };
    let spec = read_map(spec, "spec")?;
    let Some(endpoint) = present(spec.get("endpoint").copied()) else {
        return Ok(None);
    };
    let endpoint = read_map(endpoint, "spec.endpoint")?;
    for (key, site) in TRANSPORTS {
        if let Some(transport) = present(endpoint.get(key).copied()) {
            let path = format!("spec.endpoint.{key}");
            let transport = read_map(transport, &path)?;
            let store = if site == Site::McpStdio { String::new() } else { auth_store(&transport)? };
            return Ok(Some((site, store)));
        }
    }
    Ok(None)
}

/// A Subscription's `spec.route` and `spec.scopes` in their normal places (RULINGS 31).
///
/// The forms that v2alpha1 always had win; the CRD refuses objects where both are given and
/// differ.
#[derive(Debug, Default)]
pub struct Unfolded {
    spec: Option<Box<RawValue>>,
    scopes: Option<Box<RawValue>>,
}

impl Unfolded {
    /// What is to change in a Subscription of these members.
    pub fn of(members: &RawMap<'_>) -> Result<Self, ShapeError> {
        let Some(spec) = present(members.get("spec").copied()) else {
            return Ok(Self::default());
        };
        let mut spec = read_map(spec, "spec")?;
        let scopes = match present(members.get("scopes").copied()) {
            Some(scopes) if scopes.get() != "[]" => None,
            _ => present(spec.get("scopes").copied()).map(ToOwned::to_owned),
        };
        let route = shape::read_text(spec.get("route").copied(), "spec.route")?;
        if route.is_empty() {
            return Ok(Self { spec: None, scopes });
        }
        let routes = present(spec.get("routes").copied());
        let mut routes = match routes {
            Some(routes) => read_map(routes, "spec.routes")?,
            None => RawMap::new(),
        };
        if !shape::read_text(routes.get("default").copied(), "spec.routes.default")?.is_empty() {
            return Ok(Self { spec: None, scopes });
        }
        let default = raw_text(&route);
        routes.insert("default".to_owned(), &default);
        let routes = raw_map(&routes);
        spec.insert("routes".to_owned(), &routes);
        Ok(Self { spec: Some(raw_map(&spec)), scopes })
    }

    /// Makes the change.
    pub fn put_into<'a>(&'a self, members: &mut RawMap<'a>) {
        let changes = [("spec", &self.spec), ("scopes", &self.scopes)];
        for (key, value) in changes {
            if let Some(value) = value {
                members.insert(key.to_owned(), value);
            }
        }
    }
}

/// A string as JSON.
pub fn raw_text(text: &str) -> Box<RawValue> {
    let mut json = Vec::new();
    golang::push_json_string(text, &mut json);
    raw(json)
}

/// An object as JSON.
pub fn raw_map(members: &RawMap<'_>) -> Box<RawValue> {
    let mut json = Vec::from(b"{");
    for (place, (key, value)) in members.iter().enumerate() {
        if place > 0 {
            json.push(b',');
        }
        golang::push_json_string(key, &mut json);
        json.push(b':');
        json.extend_from_slice(value.get().as_bytes());
    }
    json.push(b'}');
    raw(json)
}

fn raw(json: Vec<u8>) -> Box<RawValue> {
    let json = String::from_utf8(json).expect("JSON is put together from text only");
    RawValue::from_string(json).expect("the parts are JSON, and so is their arrangement")
}

#[cfg(test)]
mod tests;
