//! The Go types of the seven kinds, field by field, as upstream v1.18.3 declares them.
//!
//! Order and `omitempty` are part of the wire format. `make golden` compares these tables
//! with recordings of upstream's own encoder.

use super::shape::{
    Field, SECRET_REFERENCE,
    Shape::{self, Annotations, Bool, Document, Duration, Int, List, Map, Pair, Raw, Shared, Struct, Text},
    Site,
    Unset::{self, Null, Omit, OmitZero, Zero},
};

const fn f(key: &'static str, shape: Shape, unset: Unset) -> Field {
    Field { key, shape, unset }
}

static TEXT: Shape = Text;
static OWNER: Shape = Struct(&[
    f("apiVersion", Text, Zero),
    f("kind", Text, Zero),
    f("name", Text, Zero),
    f("uid", Text, Zero),
    f("controller", Bool, Omit),
    f("blockOwnerDeletion", Bool, Omit),
]);

/// `ObjectMeta`, without `managedFields`: no sidecar reads them and they are most of it.
pub static METADATA: Field = f(
    "metadata",
    Struct(&[
        f("name", Text, OmitZero),
        f("generateName", Text, OmitZero),
        f("namespace", Text, OmitZero),
        f("selfLink", Text, OmitZero),
        f("uid", Text, OmitZero),
        f("resourceVersion", Text, OmitZero),
        f("generation", Int, OmitZero),
        f("creationTimestamp", Text, Null),
        f("deletionTimestamp", Text, Omit),
        f("deletionGracePeriodSeconds", Int, Omit),
        f("labels", Map(&TEXT), OmitZero),
        f("annotations", Annotations, OmitZero),
        f("ownerReferences", List(&OWNER), OmitZero),
        f("finalizers", List(&TEXT), OmitZero),
    ]),
    Zero,
);

/// The metadata of a converted object: none of it may change.
pub static METADATA_UNTOUCHED: Field = f("metadata", Raw, Zero);

/// `auth` of Component and HTTPEndpoint.
pub static AUTH: Field = f("auth", Struct(&[f("secretStore", Text, Zero)]), Zero);

/// `scopes` of every kind but Configuration.
pub static SCOPES: Field = f("scopes", List(&TEXT), OmitZero);

static COMPONENT_PAIR: Shape = Pair(Site::Component);

/// `Component.spec`.
pub static COMPONENT: Field = f(
    "spec",
    Struct(&[
        f("type", Text, Zero),
        f("version", Text, Zero),
        f("ignoreErrors", Bool, Zero),
        f("metadata", List(&COMPONENT_PAIR), Null),
        f("initTimeout", Text, Zero),
    ]),
    Zero,
);

static ENDPOINT_PAIR: Shape = Pair(Site::Endpoint);
static CLIENT_TLS: Shape = Struct(&[
    f("rootCA", Document(Site::Endpoint), Null),
    f("certificate", Document(Site::Endpoint), Null),
    f("privateKey", Document(Site::Endpoint), Null),
    f("renegotiation", Text, Null),
]);

/// `HTTPEndpoint.spec`.
pub static HTTP_ENDPOINT: Field = f(
    "spec",
    Struct(&[
        f("baseUrl", Text, Zero),
        f("headers", List(&ENDPOINT_PAIR), Null),
        f("clientTLS", Shared(&CLIENT_TLS), Omit),
    ]),
    Zero,
);

static BULK_SUBSCRIBE: Shape =
    Struct(&[f("enabled", Bool, Zero), f("maxMessagesCount", Int, OmitZero), f("maxAwaitDurationMs", Int, OmitZero)]);
static RULE: Shape = Struct(&[f("match", Text, Zero), f("path", Text, Zero)]);

/// `Subscription.spec`, v2alpha1.
pub static SUBSCRIPTION: Field = f(
    "spec",
    Struct(&[
        f("pubsubname", Text, Zero),
        f("topic", Text, Zero),
        f("metadata", Map(&TEXT), OmitZero),
        f("routes", Struct(&[f("rules", List(&RULE), OmitZero), f("default", Text, OmitZero)]), Zero),
        f("deadLetterTopic", Text, OmitZero),
        f("bulkSubscribe", Shared(&BULK_SUBSCRIBE), Zero),
    ]),
    Zero,
);

/// `Subscription.spec`, v1alpha1.
pub static SUBSCRIPTION_V1: Field = f(
    "spec",
    Struct(&[
        f("topic", Text, Zero),
        f("pubsubname", Text, Zero),
        f("metadata", Map(&TEXT), OmitZero),
        f("route", Text, Zero),
        f("bulkSubscribe", Shared(&BULK_SUBSCRIBE), Zero),
        f("deadLetterTopic", Text, OmitZero),
    ]),
    Zero,
);

static RETRY: Shape = Struct(&[
    f("policy", Text, OmitZero),
    f("duration", Text, OmitZero),
    f("maxInterval", Text, OmitZero),
    f("maxRetries", Int, Omit),
    f("matching", Struct(&[f("httpStatusCodes", Text, OmitZero), f("gRPCStatusCodes", Text, OmitZero)]), Omit),
]);
static BREAKER: Shape = Struct(&[
    f("maxRequests", Int, OmitZero),
    f("interval", Text, OmitZero),
    f("timeout", Text, OmitZero),
    f("trip", Text, OmitZero),
]);
static APP_POLICIES: Shape = Struct(&[
    f("timeout", Text, OmitZero),
    f("retry", Text, OmitZero),
    f("circuitBreaker", Text, OmitZero),
    f("circuitBreakerCacheSize", Int, OmitZero),
]);
static ACTOR_POLICIES: Shape = Struct(&[
    f("timeout", Text, OmitZero),
    f("retry", Text, OmitZero),
    f("circuitBreaker", Text, OmitZero),
    f("circuitBreakerScope", Text, OmitZero),
    f("circuitBreakerCacheSize", Int, OmitZero),
]);
static POLICY_NAMES: Shape =
    Struct(&[f("timeout", Text, OmitZero), f("retry", Text, OmitZero), f("circuitBreaker", Text, OmitZero)]);
static COMPONENT_POLICIES: Shape =
    Struct(&[f("inbound", Shared(&POLICY_NAMES), Zero), f("outbound", Shared(&POLICY_NAMES), Zero)]);

/// `Resiliency.spec`.
pub static RESILIENCY: Field = f(
    "spec",
    Struct(&[
        f(
            "policies",
            Struct(&[
                f("timeouts", Map(&TEXT), OmitZero),
                f("retries", Map(&RETRY), OmitZero),
                f("circuitBreakers", Map(&BREAKER), OmitZero),
            ]),
            Zero,
        ),
        f(
            "targets",
            Struct(&[
                f("apps", Map(&APP_POLICIES), OmitZero),
                f("actors", Map(&ACTOR_POLICIES), OmitZero),
                f("components", Map(&COMPONENT_POLICIES), OmitZero),
            ]),
            Zero,
        ),
    ]),
    Zero,
);

static MCP_AUTH: Shape = Struct(&[
    f("secretStore", Text, Omit),
    f(
        "oauth2",
        Struct(&[
            f("issuer", Text, Zero),
            f("audience", Text, Omit),
            f("scopes", List(&TEXT), OmitZero),
            f("clientID", Text, Omit),
            f("secretKeyRef", SECRET_REFERENCE, Omit),
        ]),
        Omit,
    ),
    f(
        "spiffe",
        Struct(&[f(
            "jwt",
            Struct(&[f("header", Text, Zero), f("headerValuePrefix", Text, Omit), f("audience", Text, Zero)]),
            Omit,
        )]),
        Omit,
    ),
]);
static STREAMABLE_HTTP_PAIR: Shape = Pair(Site::McpStreamableHttp);
static SSE_PAIR: Shape = Pair(Site::McpSse);
static STDIO_PAIR: Shape = Pair(Site::McpStdio);
static WORKFLOW: Shape = Struct(&[f("workflowName", Text, Zero), f("appID", Text, Omit)]);
static HOOK: Shape = Struct(&[f("workflow", Shared(&WORKFLOW), Zero)]);
static MUTATING_HOOK: Shape = Struct(&[f("workflow", Shared(&WORKFLOW), Zero), f("mutate", Bool, Omit)]);

/// `MCPServer.spec`.
pub static MCP_SERVER: Field = f(
    "spec",
    Struct(&[
        f(
            "catalog",
            Struct(&[
                f("displayName", Text, Omit),
                f("description", Text, Omit),
                f("owner", Struct(&[f("team", Text, Omit), f("contact", Text, Omit)]), Omit),
                f("tags", List(&TEXT), OmitZero),
                f("links", Map(&TEXT), OmitZero),
            ]),
            Omit,
        ),
        f(
            "endpoint",
            Struct(&[
                f(
                    "streamableHTTP",
                    Struct(&[
                        f("url", Text, Zero),
                        f("protocolVersion", Text, Omit),
                        f("timeout", Duration, Omit),
                        f("headers", List(&STREAMABLE_HTTP_PAIR), OmitZero),
                        f("auth", Shared(&MCP_AUTH), Omit),
                    ]),
                    Omit,
                ),
                f(
                    "sse",
                    Struct(&[
                        f("url", Text, Zero),
                        f("protocolVersion", Text, Omit),
                        f("timeout", Duration, Omit),
                        f("headers", List(&SSE_PAIR), OmitZero),
                        f("auth", Shared(&MCP_AUTH), Omit),
                    ]),
                    Omit,
                ),
                f(
                    "stdio",
                    Struct(&[
                        f("command", Text, Zero),
                        f("args", List(&TEXT), OmitZero),
                        f("env", List(&STDIO_PAIR), OmitZero),
                    ]),
                    Omit,
                ),
            ]),
            Zero,
        ),
        f(
            "middleware",
            Struct(&[
                f("beforeCallTool", List(&MUTATING_HOOK), OmitZero),
                f("afterCallTool", List(&MUTATING_HOOK), OmitZero),
                f("beforeListTools", List(&HOOK), OmitZero),
                f("afterListTools", List(&MUTATING_HOOK), OmitZero),
            ]),
            Omit,
        ),
        f("ignoreErrors", Bool, OmitZero),
    ]),
    Zero,
);

static WORKFLOW_RULE: Shape = Struct(&[f("name", Text, Zero), f("operations", List(&TEXT), Null)]);
static ACTIVITY_RULE: Shape = Struct(&[f("name", Text, Zero)]);
static CALLER: Shape = Struct(&[f("appID", Text, Zero)]);
static POLICY_RULE: Shape = Struct(&[
    f("callers", List(&CALLER), Null),
    f("workflows", List(&WORKFLOW_RULE), OmitZero),
    f("activities", List(&ACTIVITY_RULE), OmitZero),
]);

/// `WorkflowAccessPolicy.spec`.
pub static WORKFLOW_ACCESS_POLICY: Field = f("spec", Struct(&[f("rules", List(&POLICY_RULE), OmitZero)]), Zero);

static SELECTOR_FIELD: Shape = Struct(&[f("field", Text, Zero), f("value", Text, Zero)]);
static HANDLER: Shape = Struct(&[
    f("name", Text, Zero),
    f("type", Text, Zero),
    f("selector", Struct(&[f("fields", List(&SELECTOR_FIELD), Null)]), Omit),
]);
static PIPELINE: Shape = Struct(&[f("handlers", List(&HANDLER), Null)]);
static OTEL_PAIR: Shape = Pair(Site::Otel);
static METRIC_LABEL: Shape = Struct(&[f("name", Text, Zero), f("regex", Map(&TEXT), Null)]);
static METRIC_RULE: Shape = Struct(&[f("name", Text, Zero), f("labels", List(&METRIC_LABEL), Null)]);
static INT: Shape = Int;
static METRIC: Shape = Struct(&[
    f("enabled", Bool, Null),
    f("recordErrorCodes", Bool, Omit),
    f(
        "http",
        Struct(&[
            f("increasedCardinality", Bool, Omit),
            f("pathMatching", List(&TEXT), OmitZero),
            f("excludeVerbs", Bool, Omit),
        ]),
        Omit,
    ),
    f("rules", List(&METRIC_RULE), OmitZero),
    f("latencyDistributionBuckets", List(&INT), Omit),
]);
static TOKEN_VALIDATOR: Shape = Struct(&[f("name", Text, Zero), f("options", Raw, Omit)]);
static MTLS: Shape = Struct(&[
    f("enabled", Bool, Null),
    f("workloadCertTTL", Text, Omit),
    f("allowedClockSkew", Text, Omit),
    f("sentryAddress", Text, Zero),
    f("controlPlaneTrustDomain", Text, Zero),
    f("tokenValidators", List(&TOKEN_VALIDATOR), OmitZero),
]);
static SECRETS_SCOPE: Shape = Struct(&[
    f("storeName", Text, Zero),
    f("defaultAccess", Text, OmitZero),
    f("allowedSecrets", List(&TEXT), OmitZero),
    f("deniedSecrets", List(&TEXT), OmitZero),
]);
static OPERATION: Shape =
    Struct(&[f("name", Text, Zero), f("action", Text, Zero), f("httpVerb", List(&TEXT), OmitZero)]);
static APP_POLICY: Shape = Struct(&[
    f("appId", Text, Zero),
    f("defaultAction", Text, OmitZero),
    f("trustDomain", Text, OmitZero),
    f("namespace", Text, OmitZero),
    f("operations", List(&OPERATION), OmitZero),
]);
static ACCESS_CONTROL: Shape = Struct(&[
    f("defaultAction", Text, OmitZero),
    f("trustDomain", Text, OmitZero),
    f("policies", List(&APP_POLICY), OmitZero),
]);
static FEATURE: Shape = Struct(&[f("name", Text, Zero), f("enabled", Bool, Null)]);
static API_RULE: Shape = Struct(&[f("name", Text, Zero), f("version", Text, Zero), f("protocol", Text, OmitZero)]);
static NAMED_LIMIT: Shape = Struct(&[f("name", Text, Omit), f("maxConcurrent", Int, Omit)]);
static WORKFLOW_SPEC: Shape = Struct(&[
    f("maxConcurrentWorkflowInvocations", Int, OmitZero),
    f("maxConcurrentActivityInvocations", Int, OmitZero),
    f("globalMaxConcurrentWorkflowInvocations", Int, Omit),
    f("globalMaxConcurrentActivityInvocations", Int, Omit),
    f("workflowConcurrencyLimits", List(&NAMED_LIMIT), OmitZero),
    f("activityConcurrencyLimits", List(&NAMED_LIMIT), OmitZero),
    f(
        "stateRetentionPolicy",
        Struct(&[
            f("anyTerminal", Duration, Omit),
            f("completed", Duration, Omit),
            f("failed", Duration, Omit),
            f("terminated", Duration, Omit),
        ]),
        Omit,
    ),
]);

static OTEL: Shape = Struct(&[
    f("protocol", Text, Zero),
    f("endpointAddress", Text, Zero),
    f("isSecure", Bool, Null),
    f("headers", List(&OTEL_PAIR), OmitZero),
    f("timeout", Duration, Omit),
]);
/// What a v1.16 sidecar can read: it exits on a list of headers or a textual timeout.
static OTEL_V1_16: Shape =
    Struct(&[f("protocol", Text, Zero), f("endpointAddress", Text, Zero), f("isSecure", Bool, Null)]);

macro_rules! tracing {
    ($otel:ident) => {
        Struct(&[
            f("samplingRate", Text, Zero),
            f("stdout", Bool, Omit),
            f("zipkin", Struct(&[f("endpointAddress", Text, Zero)]), Omit),
            f("otel", Shared(&$otel), Omit),
        ])
    };
}
static TRACING: Shape = tracing!(OTEL);
static TRACING_V1_16: Shape = tracing!(OTEL_V1_16);

macro_rules! configuration {
    ($tracing:ident) => {
        Struct(&[
            f("appHttpPipeline", Shared(&PIPELINE), Omit),
            f("httpPipeline", Shared(&PIPELINE), Omit),
            f("tracing", Shared(&$tracing), Omit),
            f("metric", Shared(&METRIC), Omit),
            f("metrics", Shared(&METRIC), Omit),
            f("mtls", Shared(&MTLS), Omit),
            f("secrets", Struct(&[f("scopes", List(&SECRETS_SCOPE), Null)]), Omit),
            f("accessControl", Shared(&ACCESS_CONTROL), Omit),
            f(
                "nameResolution",
                Struct(&[f("component", Text, Zero), f("version", Text, Zero), f("configuration", Raw, Null)]),
                Omit,
            ),
            f("features", List(&FEATURE), OmitZero),
            f("api", Struct(&[f("allowed", List(&API_RULE), OmitZero), f("denied", List(&API_RULE), OmitZero)]), Omit),
            f("components", Struct(&[f("deny", List(&TEXT), OmitZero)]), Omit),
            f(
                "logging",
                Struct(&[f(
                    "apiLogging",
                    Struct(&[
                        f("enabled", Bool, Omit),
                        f("obfuscateURLs", Bool, Omit),
                        f("omitHealthChecks", Bool, Omit),
                    ]),
                    Omit,
                )]),
                Omit,
            ),
            f("wasm", Struct(&[f("strictSandbox", Bool, OmitZero)]), Omit),
            f("workflow", Shared(&WORKFLOW_SPEC), Omit),
        ])
    };
}

/// `Configuration.spec`.
pub static CONFIGURATION: Field = f("spec", configuration!(TRACING), Zero);

/// `Configuration.spec` for v1.16 sidecars (RULINGS 27).
pub static CONFIGURATION_V1_16: Field = f("spec", configuration!(TRACING_V1_16), Zero);
