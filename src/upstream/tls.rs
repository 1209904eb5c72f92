//! TLS: which authorities count, and the link of `ureq`'s chain that speaks it.

use super::failure::{Failure, Obstacle};
use super::tcp::remaining;
use crate::system::refusal::refused;
use rustls::client::Resumption;
use rustls::pki_types::{pem, pem::PemObject, CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

/// A TLS record's size: more at once makes nothing faster, and `ureq` takes four of these.
pub const BUFFER: usize = 16 << 10;

/// The built-in roots, and those of `ca_file`.
pub fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(path) = ca_file else { return Ok(roots) };
    let unusable = |why: String| Failure::Configuration(format!("ca_file {}: {why}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| match &error {
            pem::Error::Io(io) if refused(io).is_some() => {
                Failure::NotSent { why: refused(io).unwrap_or_default().to_owned(), obstacle: Obstacle::HostBusy }
            }
            error => unusable(format!("{error}; it must hold certificates in PEM form")),
        })?;
    if certificates.is_empty() {
        return Err(unusable("there is no certificate in it".into()));
    }
    for certificate in certificates {
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    Ok(roots)
}

pub fn config(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let mut provider = rustls::crypto::ring::default_provider();
    // AES-128 with SHA-256 first, as browsers have it: processors compute SHA-256, and SHA-384 only in many steps.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A process for each call makes one connection: there is nothing to resume.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A link of `ureq`'s chain: TLS where the address says https. `ureq`'s own link takes either built-in roots or given ones;
/// `ca_file` needs both.
pub struct Tls {
    pub config: Arc<ClientConfig>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, TlsTransport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        Ok(Some(match details.needs_tls() {
            true => Either::B(self.handshake(details, transport)?),
            false => Either::A(transport),
        }))
    }
}

impl Tls {
    fn handshake(&self, details: &ConnectionDetails, transport: impl Transport) -> Result<TlsTransport, ureq::Error> {
        let host = details.uri.host().unwrap_or_default().to_owned();
        let name = ServerName::try_from(host).map_err(|_| ureq::Error::Tls("not a host name"))?;
        let mut connection = ClientConnection::new(self.config.clone(), name).map_err(ureq::Error::Rustls)?;
        let adapter = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        let mut socket = Gathered { socket: adapter, pending: Vec::new(), failed: None };
        socket.socket.set_timeout(remaining(details));
        connection.complete_io(&mut socket)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(TlsTransport { buffers, stream: StreamOwned { conn: connection, sock: socket } })
    }
}

/// Sends what is written when something is to be read, and not before: the end of the handshake, the head and the body of
/// a small request then leave in one packet, where `rustls` and `ureq` would send five.
struct Gathered {
    socket: TransportAdapter,
    pending: Vec<u8>,
    /// Why sending failed: `rustls` keeps it to itself and takes in more, but what was lost would be missing in between.
    failed: Option<std::io::Error>,
}

impl Gathered {
    fn send(&mut self) -> std::io::Result<()> {
        if self.failed.is_some() {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        if let Err(error) = self.socket.write_all(&self.pending) {
            let kind = error.kind();
            self.failed = Some(error);
            return Err(kind.into());
        }
        self.pending.clear();
        Ok(())
    }
}

impl Read for Gathered {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.send()?;
        self.socket.read(buffer)
    }
}

impl Write for Gathered {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.pending.len() >= BUFFER {
            self.send()?;
        }
        self.pending.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, Gathered>,
}

impl std::fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().socket.set_timeout(timeout);
        let written = self.stream.write_all(&self.buffers.output()[..amount]);
        match self.stream.get_mut().failed.take() {
            Some(error) => Err(error.into()),
            None => Ok(written?),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().socket.set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf());
        let amount = match self.stream.get_mut().failed.take() {
            Some(error) => return Err(error.into()),
            None => read?,
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().socket.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// Why there is no TLS connection.
pub fn explain(error: &rustls::Error) -> Failure {
    let (why, obstacle) = match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => (
            "its certificate is from an authority that is not known here; for an own authority set ca_file".into(),
            Obstacle::UnknownAuthority,
        ),
        rustls::Error::InvalidCertificate(_) => (format!("TLS: {error}"), Obstacle::Certificate),
        error => (format!("TLS: {error}"), Obstacle::Other),
    };
    Failure::NotSent { why, obstacle }
}
