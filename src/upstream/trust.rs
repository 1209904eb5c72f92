//! Whether the other side's certificate is believed, and what is wrong with it in an administrator's words.

use super::failure::{Failure, Obstacle};
use crate::system::log::printable;
use crate::values::database::Encryption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_name, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use std::sync::Arc;

/// The longest name of an authority that is shown; it is the other side's own word.
const LONGEST_NAME: usize = 64;

/// What `rustls` believes, and beside it the very certificates of `ca_file`: a server's own, which mostly says of itself that
/// it is an authority (`openssl req -x509`), and which `rustls` refuses for that. Other programs take it.
#[derive(Debug)]
pub struct Trust {
    pub webpki: Arc<WebPkiServerVerifier>,
    /// Those of `ca_file`.
    pub own: Vec<CertificateDer<'static>>,
    /// A database's address may ask for less than its name.
    pub asked: Encryption,
}

impl Trust {
    fn verified(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = match self.webpki.verify_server_cert(certificate, chain, name, ocsp_response, now) {
            Ok(verified) => return Ok(verified),
            Err(error) => error,
        };
        // `rustls` looks at the time first, so that a certificate whose authority it refuses is valid now.
        match is_about_authority(&refused) && self.own.iter().any(|own| own == certificate) {
            true => ParsedCertificate::try_from(certificate)
                .and_then(|own| verify_server_name(&own, name))
                .map(|()| ServerCertVerified::assertion()),
            false => Err(refused),
        }
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.asked < Encryption::OfAuthority {
            return Ok(ServerCertVerified::assertion());
        }
        let failure = match self.verified(certificate, chain, name, ocsp_response, now) {
            Ok(verified) => return Ok(verified),
            Err(refused) => explain(&refused, certificate, chain),
        };
        match failure {
            // The name is looked at last: all the rest is in order.
            Failure::NotSent { obstacle: Obstacle::OtherName, .. } if self.asked == Encryption::OfAuthority => {
                Ok(ServerCertVerified::assertion())
            }
            failure => Err(CertificateError::Other(OtherError(Arc::new(failure))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Nobody known has signed it, or it is an authority's own (`CaUsedAsEndEntity`, which is among the others).
fn is_about_authority(error: &Error) -> bool {
    use CertificateError::{BadSignature, Other, UnknownIssuer};
    matches!(error, Error::InvalidCertificate(UnknownIssuer | BadSignature | Other(_)))
}

fn explain(error: &Error, certificate: &CertificateDer, chain: &[CertificateDer]) -> Failure {
    let Error::InvalidCertificate(problem) = error else { return of_certificate(&CertificateError::BadEncoding) };
    let Some(names) = Names::of(certificate) else { return of_certificate(problem) };
    if !names.is_version_3 {
        return Failure::not_sent("its certificate is of version 1, which is not accepted", Obstacle::OldCertificate);
    }
    if !is_about_authority(error) {
        return of_certificate(problem);
    }
    if names.issuer == names.subject {
        let why = "its certificate is signed by itself, so no known authority vouches for it";
        return Failure::not_sent(why, Obstacle::SelfSigned);
    }
    let last = chain.iter().rev().find_map(|certificate| Names::of(certificate));
    let authority = common_name(last.as_ref().map_or(names.issuer, |names| names.issuer));
    match chain {
        [] => Failure::not_sent(
            format!(
                "it sends its certificate without that of the authority which signed it{authority}, the intermediate one, \
                 and this authority is not known here"
            ),
            Obstacle::NoIntermediate,
        ),
        _ => Failure::not_sent(
            format!("its certificate is from an authority that is not known here{authority}"),
            Obstacle::UnknownAuthority,
        ),
    }
}

/// What is wrong with a certificate beside its authority.
pub fn of_certificate(problem: &CertificateError) -> Failure {
    use CertificateError as Problem;
    let (why, obstacle) = match problem {
        Problem::Other(OtherError(other)) if other.is::<Failure>() => {
            return other.downcast_ref::<Failure>().expect("it was looked at").clone()
        }
        Problem::Expired | Problem::ExpiredContext { .. } => ("its certificate has expired", Obstacle::Expired),
        Problem::NotValidYet | Problem::NotValidYetContext { .. } => {
            ("its certificate is not valid yet by this machine's clock", Obstacle::NotValidYet)
        }
        Problem::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            ("its certificate names no host (it has no subjectAltName)", Obstacle::OtherName)
        }
        Problem::NotValidForNameContext { presented, .. } => {
            let names = shown(&presented.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", "));
            return Failure::not_sent(format!("its certificate is for other hosts ({names})"), Obstacle::OtherName);
        }
        Problem::NotValidForName => ("its certificate is for another host", Obstacle::OtherName),
        Problem::UnknownIssuer => {
            ("its certificate is from an authority that is not known here", Obstacle::UnknownAuthority)
        }
        Problem::Revoked => ("its certificate has been revoked", Obstacle::Certificate),
        Problem::InvalidPurpose | Problem::InvalidPurposeContext { .. } => {
            ("its certificate is not made for a server", Obstacle::Certificate)
        }
        Problem::BadSignature
        | Problem::UnsupportedSignatureAlgorithmContext { .. }
        | Problem::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => (
            "its certificate's key or signature is not accepted: RSA keys must have 2048 bits, signatures SHA-256",
            Obstacle::Certificate,
        ),
        _ => ("its certificate cannot be read", Obstacle::Certificate),
    };
    Failure::not_sent(why, obstacle)
}

/// `DnsName("portal.lan")` and `IpAddress(10.0.0.1)` as `rustls` writes them, without that.
fn bare(name: &str) -> &str {
    let inside = name.split_once('(').map_or(name, |(_, rest)| rest.trim_end_matches(')'));
    inside.trim_matches('"')
}

/// Who has signed a certificate, and whose it is, as they stand in it.
struct Names<'c> {
    is_version_3: bool,
    issuer: &'c [u8],
    subject: &'c [u8],
}

impl<'c> Names<'c> {
    /// RFC 5280, section 4.1, as far as the names.
    fn of(certificate: &'c [u8]) -> Option<Names<'c>> {
        let (certificate, _) = Element::read(certificate)?;
        let (body, _) = Element::read(certificate.content)?;
        let (first, mut rest) = Element::read(body.content)?;
        let is_version_3 = first.tag == 0xa0 && first.content == [0x02, 0x01, 0x02];
        if first.tag == 0xa0 {
            rest = Element::read(rest)?.1;
        }
        let (_signature, rest) = Element::read(rest)?;
        let (issuer, rest) = Element::read(rest)?;
        let (_validity, rest) = Element::read(rest)?;
        let (subject, _) = Element::read(rest)?;
        Some(Names { is_version_3, issuer: issuer.content, subject: subject.content })
    }
}

/// One value of DER (X.690, section 8.1).
struct Element<'d> {
    tag: u8,
    content: &'d [u8],
}

impl<'d> Element<'d> {
    /// The first one, and what stands behind it.
    fn read(der: &'d [u8]) -> Option<(Element<'d>, &'d [u8])> {
        let (&[tag, first], rest) = der.split_first_chunk()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        Some((Element { tag, content }, rest))
    }
}

/// ` ("Let's Encrypt E7")`, or nothing. Of a name its `commonName` (2.5.4.3).
fn common_name(name: &[u8]) -> String {
    const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
    let at = memchr::memmem::find(name, COMMON_NAME);
    let value = at.and_then(|at| Element::read(&name[at + COMMON_NAME.len()..]));
    match value.and_then(|(value, _)| std::str::from_utf8(value.content).ok()).map(shown) {
        Some(text) if !text.is_empty() => format!(" ({text:?})"),
        _ => String::new(),
    }
}

/// As much of the other side's word as is shown.
fn shown(text: &str) -> String {
    printable(text).chars().take(LONGEST_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        [&[tag, 0x81, length], content].concat()
    }

    fn name(common: &str) -> Vec<u8> {
        let pair = [vec![0x06, 0x03, 0x55, 0x04, 0x03], element(0x0c, common.as_bytes())].concat();
        element(0x30, &element(0x31, &element(0x30, &pair)))
    }

    fn certificate(version: &[u8], issuer: &str, subject: &str) -> CertificateDer<'static> {
        let body = [version, &[2, 1, 1, 0x30, 0], &name(issuer), &[0x30, 0], &name(subject)].concat();
        element(0x30, &element(0x30, &body)).into()
    }

    const V3: &[u8] = &[0xa0, 3, 2, 1, 2];

    #[test]
    fn what_an_unknown_authority_means_is_told_by_what_was_sent() {
        let unknown = Error::from(CertificateError::UnknownIssuer);
        let told = |certificate: &CertificateDer, chain: &[CertificateDer]| match explain(&unknown, certificate, chain)
        {
            Failure::NotSent { why, obstacle } => (obstacle, why),
            other => panic!("{other:?}"),
        };
        let leaf = certificate(V3, "Middle", "portal.lan");
        let (obstacle, why) = told(&leaf, &[]);
        assert!(obstacle == Obstacle::NoIntermediate && why.contains("\"Middle\""), "{why}");
        let (obstacle, why) = told(&leaf, &[certificate(V3, "Top\u{1b}[2J", "Middle")]);
        assert!(obstacle == Obstacle::UnknownAuthority && why.contains("Top") && !why.contains('\u{1b}'), "{why}");
        assert_eq!(told(&certificate(V3, "me", "me"), &[]).0, Obstacle::SelfSigned);
        assert_eq!(told(&certificate(&[], "me", "me"), &[]).0, Obstacle::OldCertificate);
        let long = told(&certificate(V3, &"x".repeat(100), "me"), &[]).1;
        assert!(!long.contains(&"x".repeat(65)), "{long}");
    }

    #[test]
    fn names_are_shown_as_a_person_writes_them() {
        assert_eq!(bare("DnsName(\"portal.lan\")"), "portal.lan");
        assert_eq!(bare("IpAddress(10.0.0.1)"), "10.0.0.1");
        assert_eq!(bare("*.lan"), "*.lan");
    }

    proptest! {
        #[test]
        fn no_certificate_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..60) {
            let _ = Names::of(&bytes);
            let _ = common_name(&bytes);
            let mut cut = certificate(V3, "a", "b").to_vec();
            cut.truncate(at);
            prop_assert!(Names::of(&cut).is_none() || at > 20);
        }
    }
}
