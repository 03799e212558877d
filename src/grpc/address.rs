//! Where a peer is, and how a channel to it is opened.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tonic::{
    codegen::http::Uri,
    transport::{Channel, Endpoint},
};

use super::{CallOptions, WorkerAddresses};
use crate::text::beginning;

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

fn error(address: &str, why: &str) -> AddressError {
    AddressError { got: beginning(address, 200).to_owned(), why: why.to_owned() }
}

/// The endpoint of an address; without a scheme it is `http`.
pub(super) fn endpoint(address: &str, options: &CallOptions) -> Result<Endpoint, AddressError> {
    let full = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(full).map_err(|_| error(address, "it is no address"))?;
    match endpoint.uri().host() {
        None | Some("") => Err(error(address, "it names no host")),
        Some(_) => Ok(options.apply(endpoint)),
    }
}

/// Whether a worker may have us connect to this address, given where it speaks from.
pub(super) fn check(address: &str, allowed: WorkerAddresses, peer: Option<SocketAddr>) -> Result<(), AddressError> {
    let refuse = |why| Err(error(address, why));
    let full = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    if !full.starts_with("http://") && !full.starts_with("https://") {
        return refuse("a worker's scheme is `http` or `https`");
    }
    let Ok(uri) = full.parse::<Uri>() else { return refuse("it is no address") };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') || !matches!(uri.path_and_query().map_or("/", |it| it.as_str()), "" | "/") {
        return refuse("a worker's address has a host and a port, and nothing else");
    }
    if uri.port_u16().is_none_or(|port| port == 0) {
        return refuse("it names no port");
    }
    let host = uri.host().unwrap_or_default();
    let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else {
        return match allowed {
            WorkerAddresses::Names if !host.is_empty() => Ok(()),
            _ => refuse("its host is a name, and only IP addresses are allowed (`ControllerOptions::addresses`)"),
        };
    };
    let (ip, peer) = (ip.to_canonical(), peer.map(|peer| peer.ip().to_canonical()));
    if is_nobody(ip) {
        return refuse("no worker can be reached there");
    }
    match (allowed, peer) {
        (WorkerAddresses::PeerOnly, Some(peer)) if peer != ip => refuse("the worker speaks from another address"),
        (WorkerAddresses::PeerOnly, None) => refuse("the address that the worker speaks from is not known"),
        (_, Some(peer)) if ip.is_loopback() && !peer.is_loopback() && peer != ip => {
            refuse("it is the controller's own host, and the worker speaks from another")
        }
        _ => Ok(()),
    }
}

/// Addresses of many hosts, of none, or of the link alone, where clouds serve their secrets.
fn is_nobody(ip: IpAddr) -> bool {
    let of_the_link = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    ip.is_unspecified() || ip.is_multicast() || of_the_link
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

    #[test]
    fn b7_a_worker_may_have_us_connect_to_a_worker_and_nothing_else() {
        use WorkerAddresses::{Names, PeerOnly, Sockets};
        let peer = |ip: &str| Some(SocketAddr::new(ip.parse().unwrap(), 40_000));
        for address in ["http://10.0.0.7:9190", "10.0.0.7:9190", "https://10.0.0.7:9190/", "http://[2001:db8::7]:9190"]
        {
            check(address, Sockets, peer("10.0.0.9")).unwrap();
            check(address, Names, None).unwrap();
        }
        check("[::ffff:10.0.0.7]:9190", PeerOnly, peer("10.0.0.7")).unwrap();
        check("127.0.0.1:9190", Sockets, peer("127.0.0.1")).unwrap();
        check("worker-3.example:9190", Names, peer("10.0.0.7")).unwrap();
        for (address, allowed, from, why) in [
            ("unix:///var/run/docker.sock", Names, "10.0.0.7", "a worker's scheme"),
            ("file:///etc/passwd", Names, "10.0.0.7", "a worker's scheme"),
            ("http://root@10.0.0.7:9190", Sockets, "10.0.0.7", "and nothing else"),
            ("http://10.0.0.7:9190/containers?all=1", Sockets, "10.0.0.7", "and nothing else"),
            ("http://10.0.0.7", Sockets, "10.0.0.7", "no port"),
            ("http://10.0.0.7:0", Sockets, "10.0.0.7", "no port"),
            ("worker-3.example:9190", Sockets, "10.0.0.7", "is a name"),
            ("localhost:9190", PeerOnly, "127.0.0.1", "is a name"),
            ("2130706433:9190", Sockets, "10.0.0.7", "is a name"),
            ("169.254.169.254:80", Sockets, "10.0.0.7", "no worker can be reached there"),
            ("[::ffff:169.254.169.254]:80", Names, "10.0.0.7", "no worker can be reached there"),
            ("[fe80::1]:80", Sockets, "10.0.0.7", "no worker can be reached there"),
            ("0.0.0.0:9190", Sockets, "10.0.0.7", "no worker can be reached there"),
            ("[::]:9190", Sockets, "10.0.0.7", "no worker can be reached there"),
            ("224.0.0.1:9190", Sockets, "10.0.0.7", "no worker can be reached there"),
            ("127.0.0.1:2375", Sockets, "10.0.0.7", "the controller's own host"),
            ("[::1]:2375", Names, "10.0.0.7", "the controller's own host"),
            ("10.0.0.8:9190", PeerOnly, "10.0.0.7", "speaks from another address"),
            ("\u{1b}[2J:1", Names, "10.0.0.7", "it is no address"),
            ("", Names, "10.0.0.7", "it is no address"),
        ] {
            let error = check(address, allowed, peer(from)).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains('\u{1b}'), "{address}: {error}");
        }
        assert!(check("10.0.0.7:9190", PeerOnly, None).unwrap_err().to_string().contains("is not known"));
    }
}
