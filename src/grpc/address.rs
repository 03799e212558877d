//! Where a peer is, and how a channel to it is opened.

use std::{fmt, sync::Arc};

use tonic::transport::{Channel, Endpoint};

use super::CallOptions;

/// Opens a channel to an endpoint: `Endpoint::connect_lazy` by default. Bring your own for TLS, Unix sockets or a simulated network.
/// It is called within a tokio runtime, and must not block.
#[derive(Clone)]
pub struct Connect(Arc<dyn Fn(Endpoint) -> Channel + Send + Sync>);

impl Connect {
    /// Opens channels with `connect`.
    pub fn new(connect: impl Fn(Endpoint) -> Channel + Send + Sync + 'static) -> Self {
        Self(Arc::new(connect))
    }

    pub(super) fn open(&self, endpoint: Endpoint) -> Channel {
        (self.0)(endpoint)
    }
}

impl Default for Connect {
    fn default() -> Self {
        Self::new(|endpoint| endpoint.connect_lazy())
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connect")
    }
}

/// An address that nothing can be reached at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address such as `http://10.0.0.7:9190` or `10.0.0.7:9190`, got {got:?}: {why}")]
pub struct AddressError {
    /// The address.
    pub got: String,
    why: String,
}

/// The endpoint of an address; without a scheme it is `http`.
pub(super) fn endpoint(address: &str, options: &CallOptions) -> Result<Endpoint, AddressError> {
    let error = |why: &str| AddressError { got: address.chars().take(200).collect(), why: why.to_owned() };
    let full = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(full).map_err(|_| error("it is no address"))?;
    match endpoint.uri().host() {
        None | Some("") => Err(error("it names no host")),
        Some(_) => Ok(options.apply(endpoint)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_scheme_or_not() {
        for (address, uri) in [
            ("http://10.0.0.7:9190", "http://10.0.0.7:9190/"),
            ("10.0.0.7:9190", "http://10.0.0.7:9190/"),
            ("[::1]:9190", "http://[::1]:9190/"),
            ("worker-3.example:9190", "http://worker-3.example:9190/"),
        ] {
            assert_eq!(endpoint(address, &CallOptions::default()).unwrap().uri().to_string(), uri);
        }
        for address in ["", "http://", "a b", "://", "http:///path", "\u{0}"] {
            let error = endpoint(address, &CallOptions::default()).unwrap_err();
            assert!(error.to_string().starts_with("expected an address such as"), "{error}");
        }
    }
}
