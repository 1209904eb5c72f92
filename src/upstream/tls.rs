//! TLS: which authorities count, and the link of `ureq`'s chain that speaks it.

use super::failure::{Failure, Obstacle};
use super::tcp::remaining;
use super::trust::{of_certificate, Trust};
use crate::system::refusal::refused;
use crate::values::database::Encryption;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{pem, pem::PemObject, CertificateDer, ServerName};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, Error, NamedGroup, PeerIncompatible, RootCertStore, StreamOwned,
};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

/// A TLS record's size: more at once makes nothing faster, and `ureq` takes four of these.
pub const BUFFER: usize = 16 << 10;

/// Sessions that a process which stays can resume: eight each of so many hosts as a process calls.
const SESSIONS: usize = 64;

/// TLS with the built-in roots, and the certificates of `ca_file`. `resumes`: whether its sessions are remembered.
pub fn config(ca_file: Option<&Path>, resumes: bool) -> Result<ClientConfig, Failure> {
    let mut config = verifying(ca_file, Encryption::OfName, NamedGroup::X25519)?;
    config.resumption = match resumes {
        true => Resumption::in_memory_sessions(SESSIONS),
        // A process for each call makes one connection: there is nothing to resume.
        false => Resumption::disabled(),
    };
    Ok(config)
}

/// TLS to a database, which may be trusted with less than its name.
#[cfg(feature = "postgres")]
pub fn of_database(encryption: Encryption, ca_file: Option<&Path>) -> Result<ClientConfig, Failure> {
    // The one group that PostgreSQL takes, before 18, as it comes: any other asks for a second greeting.
    let mut config = verifying(ca_file, encryption, NamedGroup::secp256r1)?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// What is wrong with a database's TLS, and what mends it.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub fn told(error: &Error) -> String {
    match explain(error) {
        Failure::NotSent { why, obstacle } => obstacle.advised(&why),
        other => other.text(),
    }
}

/// `group`: the key exchange that is offered first.
fn verifying(ca_file: Option<&Path>, asked: Encryption, group: NamedGroup) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let own = ca_file.map_or(Ok(Vec::new()), |path| added(&mut roots, path))?;
    let mut provider = rustls::crypto::ring::default_provider();
    // AES-128 with SHA-256 first, as browsers have it: processors compute SHA-256, and SHA-384 only in many steps.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider.kx_groups.sort_by_key(|kx| kx.name() != group);
    let provider = Arc::new(provider);
    let unusable = |error: &dyn std::error::Error| Failure::Configuration(format!("TLS: {error}"));
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| unusable(&error))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trust { webpki, own, asked }))
        .with_no_client_auth();
    Ok(config)
}

/// The certificates of `ca_file`, which are among the roots now.
fn added(roots: &mut RootCertStore, ca_file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let unusable = |why: &str| Failure::Configuration(format!("ca_file {}: {why}", ca_file.display()));
    let certificates: Vec<_> = CertificateDer::pem_file_iter(ca_file)
        .and_then(|certificates| certificates.collect::<Result<_, _>>())
        .map_err(|error| match &error {
            pem::Error::Io(io) => match refused(io) {
                Some(why) => Failure::not_sent(why, Obstacle::HostBusy),
                None => unusable(&format!("it cannot be read ({io}); it must hold certificates in PEM form")),
            },
            _ => unusable("it must hold certificates in PEM form"),
        })?;
    if certificates.is_empty() {
        return Err(unusable("there is no certificate in it; it must hold some in PEM form"));
    }
    for certificate in &certificates {
        roots
            .add(certificate.clone())
            .map_err(|_| unusable("a certificate in it is broken; it must hold whole ones in PEM form"))?;
    }
    Ok(certificates)
}

/// A link of `ureq`'s chain: TLS where the address says https. `ureq`'s own link takes either built-in roots or given ones;
/// `ca_file` needs both.
#[derive(Clone)]
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
        let StreamOwned { conn, sock } = &mut self.stream;
        // It wants to read no more where a close has come that no FIN follows, and where something came unasked.
        conn.wants_read() && sock.pending.is_empty() && sock.failed.is_none() && sock.socket.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// Why there is no TLS connection, or no more.
pub fn explain(error: &Error) -> Failure {
    use rustls::AlertDescription as Alert;
    let (why, obstacle) = match error {
        Error::InvalidCertificate(problem) => return of_certificate(problem),
        Error::AlertReceived(Alert::ProtocolVersion)
        | Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => ("it speaks only TLS 1.1 or older", Obstacle::OldTls),
        // The same alert for both (OpenSSL, TLS 1.2).
        Error::AlertReceived(Alert::HandshakeFailure) => (
            "it accepts no cipher that this program knows, or asks for a certificate of the client, which it has none of",
            Obstacle::NoCommonCipher,
        ),
        Error::AlertReceived(Alert::InsufficientSecurity)
        | Error::PeerIncompatible(_)
        | Error::PeerMisbehaved(_) => ("it accepts no cipher that this program knows", Obstacle::NoCommonCipher),
        Error::AlertReceived(Alert::UnrecognisedName) => ("it does not know this host's name", Obstacle::Other),
        Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::NoCertificate
            | Alert::UnknownCA
            | Alert::AccessDenied,
        ) => ("it asks for a certificate of the client, which this program has none of", Obstacle::Other),
        Error::AlertReceived(_) => ("it breaks TLS off", Obstacle::Other),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            ("it does not speak TLS at this port", Obstacle::NotTls)
        }
        Error::DecryptError | Error::PeerSentOversizedRecord => {
            ("the TLS connection was damaged on its way", Obstacle::Other)
        }
        _ => ("TLS with it fails", Obstacle::Other),
    };
    Failure::not_sent(why, obstacle)
}
