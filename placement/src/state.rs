//! `/placement/state` and `/readyz` on the health port (placement.md §11.2, RULINGS 16).

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use crate::core::{Generation, Host};
use crate::hub::{HubHandle, Shown};
use crate::raft::Replica;

/// The wire number of REPORT.
const REPORT: u64 = 1;

/// Routes beside `/healthz`; the state only with `--metadata-enabled`.
pub fn routes(hub: HubHandle, replica: Replica, metadata: bool) -> Router {
    let ready = Router::new().route("/readyz", get(readyz)).with_state(replica);
    if !metadata {
        return ready;
    }
    ready.merge(Router::new().route("/placement/state", get(state)).with_state(hub))
}

async fn readyz(State(replica): State<Replica>) -> Response {
    let status = replica.status();
    let code = if status.quorum { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(status)).into_response()
}

async fn state(State(hub): State<HubHandle>) -> Response {
    let body = hub.show().await.map_or(Value::Null, |shown| render(&shown));
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Zero and empty fields are left out, hosts are sorted by name, namespaces by name.
fn render(shown: &[Shown]) -> Value {
    let tables: Map<String, Value> = shown.iter().map(|s| (s.namespace.to_string(), namespace(s))).collect();
    if tables.is_empty() { json!({}) } else { json!({ "tables": tables }) }
}

fn namespace(shown: &Shown) -> Value {
    let mut hosts = shown.hosts.clone();
    hosts.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let hosts: Vec<_> = hosts.iter().map(|(h, generation)| host(h, *generation, &shown.namespace)).collect();
    let fields = [("hosts", Value::from(hosts)), ("version", shown.version.into())];
    Value::Object(fields.into_iter().filter(|(_, v)| !is_zero(v)).map(|(k, v)| (k.to_owned(), v)).collect())
}

fn host(host: &Host, generation: Option<Generation>, namespace: &str) -> Value {
    let reports = !matches!(generation, Some(Generation::OpLess | Generation::V116));
    let entities: Vec<Value> = host.entities.iter().map(|e| Value::from(&**e)).collect();
    let fields = [
        ("name", Value::from(&*host.name)),
        ("port", host.port.into()),
        ("entities", entities.into()),
        ("id", (&*host.id).into()),
        ("api_level", host.api_level.into()),
        ("namespace", namespace.into()),
        ("operation", (if reports { REPORT } else { 0 }).into()),
    ];
    Value::Object(fields.into_iter().filter(|(_, v)| !is_zero(v)).map(|(k, v)| (k.to_owned(), v)).collect())
}

fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_has_upstreams_shape() {
        let host = Host {
            name: "10.244.0.5:50002".into(),
            id: "app".into(),
            port: 0,
            api_level: 20,
            entities: vec!["a".into(), "b".into()],
        };
        let shown = Shown { namespace: "default".into(), version: 3, hosts: vec![(host, Some(Generation::V118))] };
        assert_eq!(
            render(&[shown]).to_string(),
            r#"{"tables":{"default":{"hosts":[{"name":"10.244.0.5:50002","entities":["a","b"],"id":"app","api_level":20,"namespace":"default","operation":1}],"version":3}}}"#
        );
    }

    #[test]
    fn empty_things_are_left_out() {
        assert_eq!(render(&[]).to_string(), "{}");
        let shown = Shown { namespace: "ns".into(), version: 0, hosts: vec![] };
        assert_eq!(render(&[shown]).to_string(), r#"{"tables":{"ns":{}}}"#);
    }
}
