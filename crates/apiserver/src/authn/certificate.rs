//! Callers by client certificate. The TLS layer has verified the chain; here
//! the subject is read.

use ring::digest;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::CREDENTIAL;
use crate::access::UserInfo;

/// The subject attribute that carries a user's uid (upstream's
/// `AllowParsingUserUIDFromCertAuth`).
const UID: &str = "1.3.6.1.4.1.57683.2";

/// The user of a certificate: common name, organizations as groups. `None` if
/// it names nobody.
pub(super) fn user(leaf: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    if name.is_empty() {
        return None;
    }
    let mut user = UserInfo::new(name, &[]);
    user.groups = subject.iter_organization().filter_map(|one| one.as_str().ok()).map(str::to_owned).collect();
    let uid = subject.iter_attributes().find(|one| one.attr_type().to_id_string() == UID);
    user.uid = uid.and_then(|one| one.as_str().ok()).unwrap_or_default().to_owned();
    let digest = digest::digest(&digest::SHA256, leaf);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    user.extra.insert(CREDENTIAL.to_owned(), vec![format!("X509SHA256={hex}")]);
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: Option<&str>, organization: Option<&str>, expected: Option<(&str, &[&str])>) {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = name {
            parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        }
        if let Some(organization) = organization {
            parameters.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
        }
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let user = user(certificate.der());
        let shown =
            user.as_ref().map(|user| (user.name.as_str(), user.groups.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(shown, expected.map(|(name, groups)| (name, groups.to_vec())));
        if let Some(user) = user {
            assert!(user.extra[CREDENTIAL][0].starts_with("X509SHA256="));
        }
    }

    #[test]
    fn the_subject_names_user_and_group() {
        check(Some("jane"), Some("devs"), Some(("jane", &["devs"])));
        check(Some("system:node:a"), None, Some(("system:node:a", &[])));
        check(None, Some("devs"), None);
        check(Some(""), None, None);
    }
}
