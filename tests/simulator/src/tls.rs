//! The simulator's own certificate authority and the server certificate it signs.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::ServerConfig;

/// The name of a root that programs have built in, with a key of the same kind as the simulator's own authority has.
pub const BUILT_IN_ROOT: &str = "Amazon Root CA 3";

/// Bitrix24's own OAuth servers.
const TECH: &str = "oauth.bitrix24.tech";
const INFO: &str = "oauth.bitrix.info";

pub(crate) struct Tls {
    /// The authority's public key, an uncompressed point of P-256.
    pub(crate) authority_key: Vec<u8>,
    pub(crate) ca_pem: String,
    /// Certificate and private key.
    pub(crate) pair_pem: (String, String),
    pub(crate) config: Arc<ServerConfig>,
}

/// A fresh authority with one certificate, for 127.0.0.1 and localhost, and for Bitrix24's own OAuth servers. With
/// `as_built_in` it has the name of [`BUILT_IN_ROOT`].
pub(crate) fn create(as_built_in: bool) -> Result<Tls, Box<dyn std::error::Error + Send + Sync>> {
    let mut ca = CertificateParams::default();
    if as_built_in {
        ca.distinguished_name = DistinguishedName::new();
        for (kind, value) in
            [(DnType::CountryName, "US"), (DnType::OrganizationName, "Amazon"), (DnType::CommonName, BUILT_IN_ROOT)]
        {
            ca.distinguished_name.push(kind, DnValue::PrintableString(value.try_into()?));
        }
    } else {
        ca.distinguished_name.push(DnType::CommonName, "b24proxy test authority");
    }
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let authority_key = ca_key.der_bytes().to_vec();
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let mut leaf = CertificateParams::new(["localhost", "127.0.0.1", TECH, INFO].map(str::to_owned))?;
    leaf.distinguished_name.push(DnType::CommonName, "localhost");
    leaf.use_authority_key_identifier_extension = true;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf_key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&leaf_key, &issuer)?;

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    let pair_pem = (certificate.pem(), leaf_key.serialize_pem());
    Ok(Tls { authority_key, ca_pem, pair_pem, config: Arc::new(config) })
}
