//! The cluster's keys and certificates: made on first run, renewed at start.
//!
//! Private keys are files that only the owner can read. This module knows
//! files and certificates; who may do what with an identity is RBAC's matter.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// How long the authority is valid, days.
const AUTHORITY_DAYS: i64 = 3650;
/// How long a certificate is valid, days.
const CERTIFICATE_DAYS: i64 = 365;
/// A certificate with less left than this is made anew at start, days.
const RENEW_DAYS: i64 = 90;
/// Clocks of machines that join may be this far behind, minutes.
const CLOCK_SKEW_MINUTES: i64 = 5;

/// Why keys or certificates could not be had.
#[derive(thiserror::Error, Debug)]
pub(crate) enum PkiError {
    /// A file could not be read or written.
    #[error("{step} {path}")]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what its name says.
    #[error(
        "{path} is not a valid {what}; restore it from a backup, or remove the folder to make new keys (all clients then need new certificates)"
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate could not be made.
    #[error("making the certificate {name}")]
    Make {
        /// Its file name without ending.
        name: String,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
}

/// A certificate with its key, in both forms in which they are needed.
pub(crate) struct Identity {
    /// The certificate, PEM.
    pub(crate) certificate_pem: String,
    /// The private key, PEM (PKCS #8).
    pub(crate) key_pem: String,
    path: PathBuf,
}

impl Identity {
    /// The certificate for rustls.
    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        CertificateDer::pem_slice_iter(self.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(
            |source| PkiError::Parse {
                path: self.path.with_extension("crt"),
                what: "certificate",
                source: Box::new(source),
            },
        )
    }

    /// The private key for rustls.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|source| PkiError::Parse {
            path: self.path.with_extension("key"),
            what: "private key",
            source: Box::new(source),
        })
    }
}

/// What a certificate is to say.
pub(crate) struct Subject<'a> {
    /// File name without ending.
    pub(crate) name: &'a str,
    /// User name.
    pub(crate) common_name: &'a str,
    /// Groups.
    pub(crate) organizations: &'a [&'a str],
    /// Names it serves under; empty for a client.
    pub(crate) dns_names: &'a [String],
    /// Addresses it serves under.
    pub(crate) addresses: &'a [IpAddr],
}

/// The cluster's certificate authority and the folder that holds all keys.
pub(crate) struct Authority {
    folder: PathBuf,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Opens the folder; makes it and the authority if they are not there.
    pub(crate) fn open(folder: &Path) -> Result<Self, PkiError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| PkiError::File {
            step: "creating",
            path: folder.to_path_buf(),
            source,
        })?;
        let path = folder.join("ca");
        let (certificate_pem, key) = match read_pair(&path)? {
            Some((certificate, key)) => (certificate, parse_key(&path, &key)?),
            None => make_authority(&path)?,
        };
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(|source| PkiError::Parse {
            path: path.with_extension("crt"),
            what: "certificate",
            source: Box::new(source),
        })?;
        Ok(Self { folder: folder.to_path_buf(), certificate_pem, issuer })
    }

    /// The authority's certificate, PEM.
    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's certificate for rustls.
    pub(crate) fn certificate(&self) -> Result<CertificateDer<'static>, PkiError> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(|source| PkiError::Parse {
            path: self.folder.join("ca.crt"),
            what: "certificate",
            source: Box::new(source),
        })
    }

    /// The certificate of this subject: the one in the folder while it is good
    /// and says the same, else a new one.
    pub(crate) fn identity(&self, subject: &Subject<'_>) -> Result<Identity, PkiError> {
        let path = self.folder.join(subject.name);
        if let Some((certificate_pem, key_pem)) = read_pair(&path)?
            && self.still_good(&certificate_pem, subject)
        {
            return Ok(Identity { certificate_pem, key_pem, path });
        }
        let make = |source| PkiError::Make { name: subject.name.to_owned(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
        let params = parameters(subject).map_err(make)?;
        let certificate_pem = params.signed_by(&key, &self.issuer).map_err(make)?.pem();
        let key_pem = key.serialize_pem();
        write_pair(&path, &certificate_pem, &key_pem)?;
        Ok(Identity { certificate_pem, key_pem, path })
    }

    /// The key that signs service account tokens, PEM (PKCS #8, P-256).
    pub(crate) fn service_account_key(&self) -> Result<String, PkiError> {
        let path = self.folder.join("sa.key");
        if let Some(text) = read_optional(&path)? {
            return Ok(text);
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|source| PkiError::Make { name: "sa".to_owned(), source })?;
        write_private(&path, &key.serialize_pem())?;
        Ok(key.serialize_pem())
    }

    fn still_good(&self, certificate_pem: &str, subject: &Subject<'_>) -> bool {
        let Ok(der) = CertificateDer::from_pem_slice(certificate_pem.as_bytes()) else { return false };
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) else { return false };
        let Ok(authority) = self.certificate() else { return false };
        let Ok((_, authority)) = x509_parser::parse_x509_certificate(&authority) else { return false };
        let renew_at = jiff::Timestamp::now().as_second() + RENEW_DAYS * 86_400;
        certificate.validity().not_after.timestamp() > renew_at
            && certificate.verify_signature(Some(authority.public_key())).is_ok()
            && names_of(&certificate) == wanted_names(subject)
    }
}

/// Subject alternative names, printed and sorted, for comparison.
fn names_of(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let mut names = Vec::new();
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    if let Ok(bytes) = <[u8; 4]>::try_from(*bytes) {
                        names.push(IpAddr::from(bytes).to_string());
                    } else if let Ok(bytes) = <[u8; 16]>::try_from(*bytes) {
                        names.push(IpAddr::from(bytes).to_string());
                    }
                }
                _ => {}
            }
        }
    }
    names.sort();
    names
}

fn wanted_names(subject: &Subject<'_>) -> Vec<String> {
    let mut names: Vec<String> = subject.dns_names.to_vec();
    names.extend(subject.addresses.iter().map(IpAddr::to_string));
    names.sort();
    names
}

fn parameters(subject: &Subject<'_>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(subject.dns_names.to_vec())?;
    params.subject_alt_names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject.common_name);
    for organization in subject.organizations {
        params.distinguished_name.push(DnType::OrganizationName, *organization);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !subject.dns_names.is_empty() || !subject.addresses.is_empty() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    valid_for(&mut params, CERTIFICATE_DAYS);
    Ok(params)
}

fn valid_for(params: &mut CertificateParams, days: i64) {
    let now = jiff::Timestamp::now().as_second();
    let at = |second: i64| {
        let date = jiff::Timestamp::from_second(second)
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
            .to_zoned(jiff::tz::TimeZone::UTC);
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        rcgen::date_time_ymd(i32::from(date.year()), month, day)
    };
    // The type counts in days here, so the start is put back by the skew and
    // then to midnight, and the end to the midnight after the last day.
    params.not_before = at(now - CLOCK_SKEW_MINUTES * 60);
    params.not_after = at(now + (days + 1) * 86_400);
}

fn make_authority(path: &Path) -> Result<(String, KeyPair), PkiError> {
    let make = |source| PkiError::Make { name: "ca".to_owned(), source };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(make)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "darter-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    valid_for(&mut params, AUTHORITY_DAYS);
    let certificate = params.self_signed(&key).map_err(make)?.pem();
    write_pair(path, &certificate, &key.serialize_pem())?;
    Ok((certificate, key))
}

fn parse_key(path: &Path, text: &str) -> Result<KeyPair, PkiError> {
    KeyPair::from_pem(text).map_err(|source| PkiError::Parse {
        path: path.with_extension("key"),
        what: "private key",
        source: Box::new(source),
    })
}

fn read_optional(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { step: "reading", path: path.to_path_buf(), source }),
    }
}

/// Both files, or `None` if either is missing (a crash between the two writes).
fn read_pair(path: &Path) -> Result<Option<(String, String)>, PkiError> {
    let certificate = read_optional(&path.with_extension("crt"))?;
    let key = read_optional(&path.with_extension("key"))?;
    Ok(certificate.zip(key))
}

/// The key first: a certificate without its key is then never seen.
fn write_pair(path: &Path, certificate: &str, key: &str) -> Result<(), PkiError> {
    write_private(&path.with_extension("key"), key)?;
    write_private(&path.with_extension("crt"), certificate)
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let fail = |step, source| PkiError::File { step, path: path.to_path_buf(), source };
    if holds_already(path, text) {
        return Ok(());
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(|source| fail("creating", source))?;
    file.write_all(text.as_bytes()).map_err(|source| fail("writing", source))?;
    file.sync_all().map_err(|source| fail("syncing", source))?;
    fs::rename(&temporary, path).map_err(|source| fail("renaming to", source))
}

/// Then nothing is written, which a full disk or a read-only one would refuse.
fn holds_already(path: &Path, text: &str) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let private = fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o777 == 0o600);
    private && fs::read_to_string(path).is_ok_and(|found| found == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject<'a>(dns_names: &'a [String]) -> Subject<'a> {
        Subject { name: "apiserver", common_name: "kube-apiserver", organizations: &["g1"], dns_names, addresses: &[] }
    }

    #[test]
    fn an_identity_is_kept_while_its_names_stay_and_made_anew_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let names = vec!["localhost".to_owned()];
        let first = Authority::open(folder.path()).unwrap().identity(&subject(&names)).unwrap();
        let second = Authority::open(folder.path()).unwrap().identity(&subject(&names)).unwrap();
        assert_eq!(first.certificate_pem, second.certificate_pem);
        let more = vec!["localhost".to_owned(), "other".to_owned()];
        let third = Authority::open(folder.path()).unwrap().identity(&subject(&more)).unwrap();
        assert_ne!(first.certificate_pem, third.certificate_pem);
    }

    #[test]
    fn keys_are_readable_by_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        Authority::open(&folder.path().join("pki")).unwrap().service_account_key().unwrap();
        for entry in fs::read_dir(folder.path().join("pki")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
        }
    }

    #[test]
    fn a_damaged_authority_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        drop(Authority::open(folder.path()).unwrap());
        fs::write(folder.path().join("ca.key"), "nonsense").unwrap();
        let error = Authority::open(folder.path()).err().unwrap();
        assert!(error.to_string().contains("ca.key"), "{error}");
    }
}
