//! A client of Flink's REST API. It tells apart what a caller must treat differently: a
//! `JobManager` that is away, one that can't answer now, a job that is not there, a refused
//! request, and an answer that makes no sense.

mod settings;

pub use settings::{RestSettings, SettingsError, TlsFiles};

use std::{error::Error as _, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

/// The largest answer that is read. A job of thousands of subtasks has answers of a few megabytes.
const MAX_ANSWER: usize = 64 << 20;

/// A client of one Flink cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RestClient {
    base: String,
    authorization: Option<HeaderValue>,
    request_limit: Duration,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// Why a request has no usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestError {
    /// Nobody answers: the `JobManager` is away, restarting, or at another address.
    #[error("no JobManager answers at {base}: {why}")]
    Unreachable {
        /// The address.
        base: String,
        /// What the connection said.
        why: String,
    },
    /// It did not answer in time. The request may have been carried out.
    #[error("the JobManager at {base} did not answer {what} within {}", humantime::format_duration(*after))]
    TimedOut {
        /// The address.
        base: String,
        /// The request.
        what: String,
        /// How long it was given.
        after: Duration,
    },
    /// It can't answer now: an election of a leader, a start, an error of its own, or a redirect to
    /// another leader.
    #[error("the JobManager can't answer {what} now ({status}): {why}")]
    Unavailable {
        /// The request.
        what: String,
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        why: String,
    },
    /// There is no such job, trigger or vertex. After a failover this may change: a job that is
    /// recovered is unknown for a while, and triggers are forgotten.
    #[error("the JobManager does not know {what}: {why}")]
    NotFound {
        /// The request.
        what: String,
        /// What it said.
        why: String,
    },
    /// The same request will never succeed.
    #[error("the JobManager refuses {what} ({status}): {why}")]
    Refused {
        /// The request.
        what: String,
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        why: String,
    },
    /// The answer can't be understood: is this address a Flink of version 1.15 or later?
    #[error("expected an answer of Flink to {what}, got something else: {why}")]
    Strange {
        /// The request.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
}

impl RestError {
    /// Whether the same request may have an answer later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Unavailable { .. })
    }

    /// Whether what was asked about is not there.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

impl RestClient {
    /// A client with these settings. Nothing is asked of the cluster yet.
    ///
    /// # Errors
    /// [`SettingsError`] if the address is no URL, or a certificate or key can't be used.
    pub fn new(settings: RestSettings) -> Result<Self, SettingsError> {
        settings.build()
    }

    /// The address of the REST API, without a slash at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The answer to a `GET`.
    ///
    /// # Errors
    /// [`RestError`].
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, RestError> {
        self.call(Method::GET, path, None).await
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// [`RestError`]. After [`RestError::TimedOut`] and [`RestError::Unreachable`] it may have been
    /// carried out.
    ///
    /// # Cancel safety
    /// If it is dropped, it may have been carried out.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &serde_json::Value) -> Result<T, RestError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Sends a `PATCH` without a body, whose answer says nothing.
    ///
    /// # Errors
    /// As for [`post`](Self::post).
    ///
    /// # Cancel safety
    /// As for [`post`](Self::post).
    pub async fn patch(&self, path: &str) -> Result<(), RestError> {
        self.call(Method::PATCH, path, None).await.map(|_: serde::de::IgnoredAny| ())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<T, RestError> {
        let what = format!("{method} {path}");
        let strange = |why: String| RestError::Strange { what: what.clone(), why };
        let uri: Uri = format!("{}{path}", self.base).parse().map_err(|error| strange(format!("{error}")))?;
        let mut request = Request::builder().method(method).uri(uri).header(header::ACCEPT, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        let bytes = body.map(|body| Bytes::from(body.to_string()));
        if bytes.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request =
            request.body(Full::new(bytes.unwrap_or_default())).map_err(|error| strange(format!("{error}")))?;
        let answer = async {
            let unreachable = |why: String| RestError::Unreachable { base: self.base.clone(), why };
            let answer = self.http.request(request).await.map_err(|error| unreachable(with_causes(&error)))?;
            let (head, body) = answer.into_parts();
            let body =
                Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| unreachable(error.to_string()))?;
            Ok((head, body.to_bytes()))
        };
        let (head, body) = timeout(self.request_limit, answer).await.map_err(|_| RestError::TimedOut {
            base: self.base.clone(),
            what: what.clone(),
            after: self.request_limit,
        })??;
        if head.status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| strange(format!("{error}")));
        }
        Err(refusal(what, head.status, &head.headers, &body))
    }
}

/// What an answer without success means.
fn refusal(what: String, status: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> RestError {
    let text = serde_json::from_slice::<Errors>(body).map_or_else(
        |_| String::from_utf8_lossy(body.get(..300).unwrap_or(body)).into_owned(),
        |Errors { errors }| errors.join("; "),
    );
    // Flink says "not found" with 404, but `/jobs/:id/status` says it with 500 (2.3.0).
    let is_not_there = status == StatusCode::NOT_FOUND || text.contains("FlinkJobNotFoundException");
    let why = sentence(&text);
    if is_not_there {
        return RestError::NotFound { what, why };
    }
    let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
    if status.is_redirection() {
        return RestError::Unavailable {
            what,
            status,
            why: format!("it names another leader: {}", location.unwrap_or("nobody")),
        };
    }
    let is_temporary =
        status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    if is_temporary { RestError::Unavailable { what, status, why } } else { RestError::Refused { what, status, why } }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

/// The innermost cause that a stack trace of Java names, in one line.
pub(crate) fn sentence(trace: &str) -> String {
    let mut causes = trace.lines().filter_map(|line| line.trim_start().strip_prefix("Caused by: "));
    let first = trace.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("at "));
    let innermost = causes.next_back().or(first).unwrap_or("it does not say why");
    // Wrappers such as `CompletionException: CheckpointException: …` say nothing.
    let mut said = innermost;
    while let Some((class, rest)) = said.split_once(": ") {
        let is_class = class.contains('.') && !class.contains(' ') && !class.contains('/');
        let wraps = rest.split_once(": ").is_some_and(|(class, _)| class.contains('.') && !class.contains(' '));
        if is_class && wraps {
            said = rest;
        } else {
            break;
        }
    }
    said.chars().take(400).collect()
}

fn with_causes(error: &hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_trace_is_said_in_one_line() {
        let trace = "java.util.concurrent.CompletionException: org.apache.flink.CheckpointException: IO-problem detected.\n\
                     \tat java.base/java.lang.Thread.run(Thread.java:840)\n\
                     Caused by: java.io.IOException: Failed to create savepoint directory at file:/proc/nope\n\t... 3 more";
        assert_eq!(sentence(trace), "java.io.IOException: Failed to create savepoint directory at file:/proc/nope");
        assert_eq!(sentence("a.B: c.D: too slow\n\tat x"), "c.D: too slow");
        assert_eq!(sentence(""), "it does not say why");
    }

    #[test]
    fn answers_without_success_are_told_apart() {
        let none = http::HeaderMap::new();
        let is = |status: u16, body: &str| {
            refusal("GET /x".into(), StatusCode::from_u16(status).unwrap(), &none, body.as_bytes())
        };
        assert!(is(404, r#"{"errors":["x"]}"#).is_not_found());
        let as_500 = r#"{"errors":["Internal server error.","<Exception: FlinkJobNotFoundException: no job>"]}"#;
        assert!(is(500, as_500).is_not_found());
        assert!(is(500, r#"{"errors":["Internal server error."]}"#).is_retryable());
        assert!(is(503, "no leader").is_retryable());
        assert!(is(307, "").is_retryable());
        assert!(is(429, "").is_retryable());
        for status in [400, 401, 403, 405, 409] {
            assert!(matches!(is(status, "no"), RestError::Refused { .. }), "{status}");
        }
    }
}
