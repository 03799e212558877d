//! How a cluster is reached: its address, its authentication, and TLS.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Uri};
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::RestClient;

/// How a cluster is reached.
#[derive(Clone, Debug)]
#[must_use = "give it to `RestClient::new`"]
pub struct RestSettings {
    url: String,
    authorization: Option<HeaderValue>,
    tls: TlsFiles,
    request_limit: Duration,
}

/// Files in PEM for `https`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities to trust, instead of those of the system.
    pub authorities: Option<PathBuf>,
    /// The client's own certificate and key, for a cluster that asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Settings that no client can be made with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The address is no URL.
    #[error("expected the address of Flink's REST API, such as http://localhost:8081, got {got:?}")]
    Url {
        /// The address.
        got: String,
    },
    /// The header can't be sent.
    #[error("expected an Authorization header of one line of printable characters, such as `Bearer …`")]
    Authorization,
    /// A file can't be used.
    #[error("expected certificates or a key in PEM in {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// TLS can't be set up.
    #[error("TLS can't be set up: {0}")]
    Tls(String),
}

impl RestSettings {
    /// The REST API at this address, such as `http://localhost:8081`. A path before the API's own
    /// is kept.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), authorization: None, tls: TlsFiles::default(), request_limit: Duration::from_secs(10) }
    }

    /// Sends this `Authorization` header with each request. It is never printed.
    ///
    /// # Errors
    /// [`SettingsError::Authorization`] if it can't be a header.
    pub fn authorization(mut self, header: &str) -> Result<Self, SettingsError> {
        let mut header = HeaderValue::from_str(header.trim()).map_err(|_| SettingsError::Authorization)?;
        header.set_sensitive(true);
        self.authorization = Some(header);
        Ok(self)
    }

    /// Uses these files for `https`.
    pub fn tls(mut self, files: TlsFiles) -> Self {
        self.tls = files;
        self
    }

    /// How long one request may take, from sending to the end of its answer. 10 s.
    pub fn request_limit(mut self, limit: Duration) -> Self {
        self.request_limit = limit;
        self
    }

    pub(super) fn build(self) -> Result<RestClient, SettingsError> {
        let Self { url, authorization, tls, request_limit } = self;
        let base = url.trim_end_matches('/').to_owned();
        let parsed: Option<Uri> = base.parse().ok();
        if !parsed.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none()) {
            return Err(SettingsError::Url { got: url });
        }
        let config = tls.config(base.starts_with("https"))?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        let http = Client::builder(TokioExecutor::new()).build(connector);
        Ok(RestClient { base, authorization, request_limit, http })
    }
}

impl TlsFiles {
    fn config(&self, is_needed: bool) -> Result<ClientConfig, SettingsError> {
        let tls = |error: &dyn std::fmt::Display| SettingsError::Tls(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| tls(&error))?;
        let builder = match &self.authorities {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| bad(path, &error))?;
                }
                builder.with_root_certificates(roots)
            }
            // A machine without certificates can still talk to a cluster without TLS.
            None if is_needed => builder.with_native_roots().map_err(|error| tls(&error))?,
            None => builder.with_root_certificates(RootCertStore::empty()),
        };
        match &self.identity {
            Some((certificate, key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
                builder
                    .with_client_auth_cert(certificates(certificate)?, private)
                    .map_err(|error| bad(certificate, &error))
            }
            None => Ok(builder.with_no_client_auth()),
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| bad(path, &error))?;
    if all.is_empty() { Err(bad(path, &"it holds no certificate")) } else { Ok(all) }
}

fn bad(path: &Path, why: &dyn std::fmt::Display) -> SettingsError {
    SettingsError::File { path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_refused() {
        for url in ["localhost:8081", "", "ftp://x", "http://x/?a=b"] {
            assert!(matches!(RestSettings::new(url).build(), Err(SettingsError::Url { .. })), "{url}");
        }
        assert_eq!(RestSettings::new("http://x:1/flink/").build().unwrap().base(), "http://x:1/flink");
    }

    #[test]
    fn a_secret_is_not_printed() {
        let settings = RestSettings::new("http://x").authorization("Bearer hunter2\n").unwrap();
        assert!(!format!("{settings:?} {:?}", settings.clone().build().unwrap()).contains("hunter2"));
        assert!(RestSettings::new("http://x").authorization("a\nb").is_err());
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "nothing").unwrap();
        let tls = TlsFiles { authorities: Some(path.clone()), identity: None };
        let error = RestSettings::new("https://x").tls(tls).build().unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
