//! Contract section 1, `ca_file`, and section 3, `bitrix24_unreachable`: the other side's TLS as it is found on real servers,
//! and what is said of it: in a call, and by `check`.

use crate::fixture::*;
use rcgen::{
    date_time_ymd, BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{pem::PemObject, CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use simulator::Options;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use support::cgi::Answer;
use support::eventually;

/// Words of libraries, which nobody who reads an answer knows.
const LIBRARY_WORDS: [&str; 12] = [
    "CaUsedAsEndEntity",
    "UnsupportedCertVersion",
    "HandshakeFailure",
    "UnknownIssuer",
    "invalid peer certificate",
    "NotValidForName",
    "DnsName",
    "Expired",
    "alert",
    "InvalidContentType",
    "corrupt message",
    "PeerIncompatible",
];

pub type Change = fn(&mut CertificateParams);

/// For localhost, valid for years.
fn parameters(common_name: &str, change: Change) -> CertificateParams {
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    (parameters.not_before, parameters.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1));
    change(&mut parameters);
    parameters
}

fn authority(parameters: &mut CertificateParams) {
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
}

fn as_it_is(_: &mut CertificateParams) {}

/// What a server sends: its certificate and those behind it, and its key, PEM.
pub struct Identity {
    pub chain: String,
    pub key: String,
}

pub fn self_signed(change: Change) -> Identity {
    let key = KeyPair::generate().unwrap();
    let chain = parameters("localhost", change).self_signed(&key).unwrap().pem();
    Identity { chain, key: key.serialize_pem() }
}

/// A root, one below it, and a server's certificate below that: the root's PEM, the server's own chain, with the intermediate
/// one.
fn of_authority(change: Change) -> (String, Identity) {
    let root =
        CertifiedIssuer::self_signed(parameters("Root of the test", authority), KeyPair::generate().unwrap()).unwrap();
    let middle =
        CertifiedIssuer::signed_by(parameters("Middle of the test", authority), KeyPair::generate().unwrap(), &root)
            .unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = parameters("localhost", change).signed_by(&key, &middle).unwrap();
    (root.pem(), Identity { chain: format!("{}{}", leaf.pem(), middle.pem()), key: key.serialize_pem() })
}

/// The first certificate of a chain.
fn first(chain: &str) -> String {
    chain.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_owned()
}

/// Answers every request as Bitrix24 does, with this identity, and ends with the test's process. Its port.
pub fn bitrix24(identity: &Identity) -> u16 {
    let chain = CertificateDer::pem_slice_iter(identity.chain.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let (listener, config) = (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(config));
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut more = [0; 4096];
                match tls.read(&mut more) {
                    Ok(count) if count > 0 => request.extend_from_slice(&more[..count]),
                    _ => break,
                }
            }
            let body = r#"{"result":{"ID":"1"}}"#;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length";
            let _ = write!(tls, "{head}: {}\r\n\r\n{body}", body.len());
            let _ = tls.flush();
        }
    });
    port
}

/// `openssl s_server`, ended with this value.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(folder: &Path, options: &[&str]) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("openssl")
            .args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-www", "-quiet"])
            .args(options)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the Debian package openssl");
        eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Server { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
    let output = output.expect("the Debian package openssl");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A proxy whose one portal, by a webhook, is what listens at this port; `ca`: what `ca_file` holds.
fn proxy_to(port: u16, ca: Option<&str>) -> Proxy {
    let proxy = Proxy::with(Options::default());
    let name = format!("localhost:{port}");
    let ca_file = if ca.is_some() { "ca_file = \"ca.pem\"\n" } else { "" };
    proxy.sandbox.write("b24proxy/ca.pem", 0o600, ca.unwrap_or("").as_bytes());
    proxy.configured(&format!(
        "[bitrix24]\n{ca_file}connect_timeout = 5\n[portals.\"{name}\"]\nwebhook = \"https://{name}/rest/1/c0dec0dec0de/\"\n\
         [security]\nauth_token = \"{TOKEN}\"\n"
    ))
}

fn call(proxy: &Proxy) -> Answer {
    proxy.request(r#"{"method":"profile"}"#).run()
}

#[track_caller]
fn assert_believed(port: u16, ca: Option<&str>) {
    let answer = call(&proxy_to(port, ca));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The call says these words, and `check` does; neither says a library's.
#[track_caller]
fn assert_told(port: u16, ca: Option<&str>, words: &[&str]) {
    let proxy = proxy_to(port, ca);
    let answer = call(&proxy);
    assert_failure(&answer, 502, "bitrix24_unreachable");
    assert_eq!(answer.json()["executed"], "no", "{}", answer.text());
    let check = proxy.sandbox.command_line(&["check"]).output().unwrap();
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    for text in [answer.json()["error"].as_str().unwrap(), &check] {
        for word in words {
            // Lines of the terminal are broken.
            let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(word), "{word:?}: {flat}");
        }
        for word in LIBRARY_WORDS {
            assert!(!text.contains(word), "{word:?}: {text}");
        }
    }
}

#[test]
fn a_self_signed_certificate_given_as_ca_file_is_believed_whatever_it_says_of_itself() {
    for change in [as_it_is as Change, authority, |parameters| parameters.is_ca = IsCa::ExplicitNoCa] {
        let identity = self_signed(change);
        let port = bitrix24(&identity);
        assert_believed(port, Some(&identity.chain));
        // Beside others, which come first.
        let other = self_signed(authority);
        assert_believed(port, Some(&format!("{}{}", other.chain, identity.chain)));
        assert_told(port, Some(&other.chain), &["signed by itself", "ca_file"]);
        assert_told(port, None, &["signed by itself", "ca_file"]);
    }
    // And a server's own certificate of an authority that nobody has.
    let (_, identity) = of_authority(as_it_is);
    assert_believed(bitrix24(&identity), Some(&first(&identity.chain)));
}

#[test]
fn what_openssl_makes_by_its_defaults_is_believed_as_ca_file() {
    let proxy = Proxy::not_installed();
    let folder = proxy.sandbox.path();
    let request = "req -x509 -newkey rsa:2048 -nodes -days 30 -keyout key.pem -out cert.pem -subj /CN=localhost";
    openssl(folder, &format!("{request} -addext subjectAltName=DNS:localhost"));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let identity = Identity { chain: read("cert.pem"), key: read("key.pem") };
    assert_believed(bitrix24(&identity), Some(&identity.chain));
    // Without a name it is for nobody, ca_file or not.
    openssl(folder, request);
    let identity = Identity { chain: read("cert.pem"), key: read("key.pem") };
    assert_told(bitrix24(&identity), Some(&identity.chain), &["names no host", "subjectAltName=DNS:HOST"]);
}

#[test]
fn a_certificate_in_ca_file_is_still_looked_at() {
    let expired: Change = |parameters| parameters.not_after = date_time_ymd(2021, 1, 1);
    let early: Change = |parameters| parameters.not_before = date_time_ymd(2089, 1, 1);
    let others: Change = |parameters| {
        parameters.subject_alt_names = CertificateParams::new(vec!["other.lan".to_owned()]).unwrap().subject_alt_names;
    };
    for (change, words) in [
        (expired, ["has expired", "date -u"]),
        (early, ["not valid yet", "timedatectl"]),
        (others, ["for other hosts (other.lan)", "proxy.toml"]),
    ] {
        let identity = self_signed(change);
        assert_told(bitrix24(&identity), Some(&identity.chain), &words);
        // The same of an authority's.
        let (root, identity) = of_authority(change);
        assert_told(bitrix24(&identity), Some(&root), &words);
    }
    // The certificate that an authority has of the same name, and another key.
    let (one, two) = (self_signed(authority), self_signed(authority));
    assert_told(bitrix24(&one), Some(&two.chain), &["signed by itself"]);
}

#[test]
fn a_missing_intermediate_certificate_is_named() {
    let (root, whole) = of_authority(as_it_is);
    assert_believed(bitrix24(&whole), Some(&root));
    let alone = Identity { chain: first(&whole.chain), key: whole.key.clone() };
    let port = bitrix24(&alone);
    for ca in [Some(root.as_str()), None] {
        assert_told(port, ca, &["the intermediate one", "Middle of the test", "fullchain.pem"]);
    }
    assert_told(bitrix24(&whole), None, &["authority that is not known here", "Root of the test", "ca_file"]);
}

#[test]
fn a_certificate_that_is_not_a_servers_is_told() {
    let (root, identity) =
        of_authority(|parameters| parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert_told(bitrix24(&identity), Some(&root), &["not made for a server"]);
}

#[test]
fn old_tls_and_old_certificates_are_told_with_what_mends_them() {
    let proxy = Proxy::not_installed();
    let folder = proxy.sandbox.path();
    let subject = "-newkey rsa:2048 -nodes -keyout key.pem -subj /CN=localhost";
    openssl(folder, &format!("req -x509 -days 30 {subject} -out cert.pem -addext subjectAltName=DNS:localhost"));
    openssl(folder, &format!("req -new {subject} -keyout old-key.pem -out old.csr"));
    openssl(folder, "x509 -req -in old.csr -signkey old-key.pem -days 30 -out old.pem");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let new = ["-cert", "cert.pem", "-key", "key.pem"];
    let with = |options: &[&str]| Server::start(folder, &[&new[..], options].concat());

    for version in ["-tls1_1", "-tls1"] {
        let server = with(&[version, "-cipher", "DEFAULT:@SECLEVEL=0"]);
        assert_told(server.port, Some(&read("cert.pem")), &["only TLS 1.1 or older", "switch TLS 1.2 or 1.3 on"]);
    }
    let server = with(&["-tls1_2", "-cipher", "AES128-SHA256"]);
    assert_told(server.port, Some(&read("cert.pem")), &["no cipher", "ECDHE"]);
    let server = Server::start(folder, &["-cert", "old.pem", "-key", "old-key.pem"]);
    for ca in [None, Some(read("old.pem"))] {
        assert_told(server.port, ca.as_deref(), &["of version 1", "openssl req -x509", "subjectAltName=DNS:HOST"]);
    }
    let server = with(&["-tls1_2", "-Verify", "1", "-verify_return_error"]);
    assert_told(server.port, Some(&read("cert.pem")), &["asks for a certificate of the client"]);
    // Of TLS 1.3 that is heard only when the request was sent.
    let server = with(&["-tls1_3", "-Verify", "1", "-verify_return_error"]);
    let answer = call(&proxy_to(server.port, Some(&read("cert.pem"))));
    assert_eq!(answer.json()["executed"], "unknown", "{}", answer.text());
    assert!(answer.text().contains("asks for a certificate of the client"), "{}", answer.text());
}

#[test]
fn what_is_not_tls_is_told() {
    let answering = |bytes: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(bytes);
            }
        });
        port
    };
    let words = ["does not speak TLS", "check name and port"];
    assert_told(answering(b"HTTP/1.1 400 Bad Request\r\n\r\nThe plain HTTP request\r\n"), None, &words);
    assert_told(answering(b"SSH-2.0-OpenSSH_9.2p1\r\n"), None, &words);
    assert_told(answering(b""), None, &["closed the connection"]);
}
