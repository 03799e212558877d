//! What can go wrong between a controller and the API server, each named for what it is.

use std::{fmt, sync::Arc, time::Duration};

use crate::contracts::{JobId, RunId, SchedulerError, WorkerId};

/// A request to the API server that did not get what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// `get`, `list`, `watch`, `create`, `update` or `delete`: the words of a role.
    pub verb: &'static str,
    /// `pods` or `leases`.
    pub resource: &'static str,
    /// Where.
    pub namespace: Arc<str>,
    /// The object; empty for a request about many.
    pub name: Box<str>,
    /// What kind of trouble it is.
    pub trouble: Trouble,
    /// What the server or the network said.
    pub said: Box<str>,
}

/// What kind of trouble the API server, or the way to it, has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Trouble {
    /// 401: it does not know who asks.
    Unauthorized,
    /// 403: the role does not allow it (RBAC).
    Forbidden,
    /// 403: a resource quota of the namespace is used up.
    Quota,
    /// 400, 403, 422: the object is not valid, or admission refuses it.
    Refused,
    /// 404.
    NotFound,
    /// 409: the object is another than the one that was meant, or has changed since.
    Conflict,
    /// 410: what was read before is too old to go on from. Listed anew, and not reported.
    Expired,
    /// 429: too many requests.
    Throttled {
        /// How long it asks to wait, if it says so.
        retry_after: Option<Duration>,
    },
    /// 5xx, no connection, or no answer in time.
    Unavailable,
    /// An answer that makes no sense to this client.
    Unexpected,
}

impl Trouble {
    /// Whether the same request is sent again after a wait.
    pub const fn passes(self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Unavailable)
    }

    /// By the status of an answer, and by what it says.
    pub(super) fn of(code: u16, retry_after: Option<Duration>, said: &str) -> Self {
        match code {
            401 => Self::Unauthorized,
            // Nothing but the message tells these three apart; Kubernetes' own controllers read it too.
            403 if said.contains("exceeded quota") => Self::Quota,
            403 if said.contains(" cannot ") => Self::Forbidden,
            400 | 403 | 405 | 413 | 415 | 422 => Self::Refused,
            404 => Self::NotFound,
            409 => Self::Conflict,
            410 => Self::Expired,
            429 => Self::Throttled { retry_after },
            408 | 500.. => Self::Unavailable,
            _ => Self::Unexpected,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unauthorized => "the API server does not know who asks; look at the client's credentials",
            Self::Forbidden => "the role does not allow it; grant this verb on this resource in this namespace",
            Self::Quota => "a quota is used up; raise it, or wait until other pods are gone",
            Self::Refused => "the object is refused; look at the pod template, and at what guards the namespace",
            Self::NotFound => "there is none of that name",
            Self::Conflict => "it is not the object that was meant, or it has changed since",
            Self::Expired => "what was read before is too old to go on from",
            Self::Throttled { .. } => "the API server is throttling; it was asked again as often as there was time",
            Self::Unavailable => {
                "the API server can't be reached or can't answer; it was asked again as often as there was time"
            }
            Self::Unexpected => "expected an answer of the Kubernetes API, got something else",
        })
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, resource, namespace, name, trouble, said } = self;
        write!(f, "can't {verb} {resource}")?;
        if !name.is_empty() {
            write!(f, " `{name}`")?;
        }
        write!(f, " in namespace `{namespace}`: {trouble} ({said})")
    }
}

impl std::error::Error for ApiError {}

impl From<ApiError> for SchedulerError {
    fn from(error: ApiError) -> Self {
        match error.trouble {
            Trouble::Unauthorized | Trouble::Forbidden | Trouble::Refused | Trouble::Unexpected => {
                Self::Refused(error.into())
            }
            _ => Self::Unavailable(error.into()),
        }
    }
}

/// Why a worker's pod was not created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No worker can be made from the template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A pod of that worker is there.
    #[error("worker {worker} of job `{job}`, run {run}, has a pod already: `{pod}`; stop it first, or use another id")]
    AlreadyThere {
        /// The job.
        job: JobId,
        /// The run.
        run: RunId,
        /// The worker.
        worker: WorkerId,
        /// The pod.
        pod: String,
    },
    /// A pod that is none of this worker has its name.
    #[error(
        "expected the name `{pod}` in namespace `{namespace}` to be free, got a pod that is not this worker's; remove it"
    )]
    NameTaken {
        /// The pod.
        pod: String,
        /// Where.
        namespace: String,
    },
    /// The run was stopped with force, before the start or during it.
    #[error(
        "worker {worker} of job `{job}`, run {run}, is not started: the run was stopped with force; start a new run"
    )]
    Stopped {
        /// The job.
        job: JobId,
        /// The run.
        run: RunId,
        /// The worker.
        worker: WorkerId,
    },
    /// A start of that worker is under way, or its end is not known yet.
    #[error("a start of worker {worker} of job `{job}`, run {run}, is under way; wait for its end, or use another id")]
    UnderWay {
        /// The job.
        job: JobId,
        /// The run.
        run: RunId,
        /// The worker.
        worker: WorkerId,
    },
    /// The async runtime is shutting down.
    #[error("the runtime is shutting down, so it is not known whether the pod was created")]
    Runtime,
    /// The pod can't be written as JSON.
    #[error("can't write the pod as JSON: {0}")]
    Json(serde_json::Error),
    /// The controller does not hold its lease, so it starts nothing.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// The API server did not do it.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl StartError {
    /// Whether the same start may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Api(error) if error.trouble.passes() || matches!(error.trouble, Trouble::Quota))
    }
}

/// A pod template that no worker can be made from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a pod template with {expected}, got {got}")]
pub struct TemplateError {
    /// What it is to have.
    pub expected: &'static str,
    /// What it has.
    pub got: String,
}

/// The controller does not lead, or leads no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{identity}` does not hold the lease `{lease}` in namespace `{namespace}`: another controller may act; stop acting, and take the lease \
     again before you go on"
)]
pub struct NotLeader {
    /// The lease.
    pub lease: String,
    /// Where.
    pub namespace: String,
    /// Who does not hold it.
    pub identity: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds_of_403_are_told_apart() {
        let rbac =
            r#"pods is forbidden: User "eve" cannot list resource "pods" in API group "" in the namespace "jobs""#;
        let quota =
            r#"pods "words-7-1" is forbidden: exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2"#;
        let admission = r#"pods "words-7-1" is forbidden: maximum cpu usage per Container is 1, but limit is 2"#;
        let of = |said| Trouble::of(403, None, said);
        assert_eq!([of(rbac), of(quota), of(admission)], [Trouble::Forbidden, Trouble::Quota, Trouble::Refused]);
    }

    #[test]
    fn an_error_names_verb_resource_and_namespace() {
        let error = ApiError {
            verb: "delete",
            resource: "pods",
            namespace: "jobs".into(),
            name: "words-7-1".into(),
            trouble: Trouble::Forbidden,
            said: "no".into(),
        };
        assert_eq!(
            error.to_string(),
            "can't delete pods `words-7-1` in namespace `jobs`: the role does not allow it; grant this verb on this resource in this \
             namespace (no)"
        );
        assert!(!SchedulerError::from(error).is_retryable());
    }
}
