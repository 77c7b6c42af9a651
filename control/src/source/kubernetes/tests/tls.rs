//! Servers as they are outside of tests: with TLS, an authority of their own, and credentials that are replaced.

use std::fs;
use std::sync::Arc;

use k8s_openapi::ByteString;
use podgate_config::manifest::server::ServerKind;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::fake::Fake;
use super::{PODS, Seen, TIMING, pod};

/// Who signs certificates.
struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn pem(&self) -> String {
        self.certificate.pem()
    }
}

/// A server of this name; if there is an authority of clients, it hears nobody else.
fn server(authority: &Authority, name: &str, clients: Option<&Authority>) -> Fake {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let (certificate, key) = authority.sign(name);
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let fake = Fake::start_with(Some(TlsAcceptor::from(Arc::new(config))));
    fake.set(PODS, pod("web", "1", "10.0.0.1"));
    fs::write(fake.file("ca.crt"), authority.pem()).unwrap();
    fake
}

/// The fields of a cluster whose authority is in a file.
fn cluster(fake: &Fake) -> String {
    let authority = fake.file("ca.crt");
    format!("server: 'https://{}', certificate-authority: '{}'", fake.address(), authority.display())
}

fn base64(text: String) -> String {
    serde_json::to_string(&ByteString(text.into_bytes())).unwrap()
}

const TOKEN: &str = "token: secret";

fn follows(fake: &Fake) {
    let mut seen = Seen::of(fake, TIMING);
    seen.until("everything", |seen| seen.synced && seen.all_current());
    assert!(seen.has("web", "1", "10.0.0.1"));
    assert!(seen.state().server.starts_with("https://"));
}

/// Why it is not followed; it was not asked for anything.
fn refusal(seen: &mut Seen) -> String {
    seen.until("the refusal", |seen| !seen.error(ServerKind::Pod).is_empty());
    assert!(!seen.state().synced);
    let error = seen.error(ServerKind::Pod);
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn a_server_with_an_authority_of_its_own() {
    let authority = Authority::new();
    let fake = server(&authority, "127.0.0.1", None);
    fake.write_kubeconfig_with(&cluster(&fake), TOKEN);
    follows(&fake);
    let data = base64(authority.pem());
    let cluster = format!("server: 'https://{}', certificate-authority-data: {data}", fake.address());
    fake.write_kubeconfig_with(&cluster, TOKEN);
    follows(&fake);
}

#[test]
fn a_server_that_another_authority_vouches_for_is_not_believed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let fake = server(&authority, "127.0.0.1", None);
    fs::write(fake.file("ca.crt"), other.pem()).unwrap();
    fake.write_kubeconfig_with(&cluster(&fake), TOKEN);
    let mut seen = Seen::of(&fake, TIMING);
    let error = refusal(&mut seen);
    let file = fake.kubeconfig().display().to_string();
    assert!(error.starts_with("its certificate is not believed (") && error.contains(&file), "{error}");
    assert!(fake.with(|inner| inner.requests.is_empty()), "nobody has seen the token");
    // Mended, it is followed without a restart.
    fs::write(fake.file("ca.crt"), authority.pem()).unwrap();
    seen.until("everything", |seen| seen.synced);

    // Nor one with the certificate of another name, unless that is the one that is asked for.
    let fake = server(&authority, "api.example", None);
    fake.write_kubeconfig_with(&cluster(&fake), TOKEN);
    let error = refusal(&mut Seen::of(&fake, TIMING));
    assert!(error.starts_with("its certificate is not believed ("), "{error}");
    fake.write_kubeconfig_with(&format!("{}, tls-server-name: api.example", cluster(&fake)), TOKEN);
    follows(&fake);
}

#[test]
fn a_server_that_wants_a_certificate_is_shown_one() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let fake = server(&authority, "127.0.0.1", Some(&clients));
    fake.write_kubeconfig_with(&cluster(&fake), TOKEN);
    let mut seen = Seen::of(&fake, TIMING);
    let error = refusal(&mut seen);
    assert!(error.contains("CertificateRequired"), "{error}");
    let (certificate, key) = clients.sign("node-1");
    let (certificate, key) = (base64(certificate.pem()), base64(key.serialize_pem()));
    let user = format!("{TOKEN}, client-certificate-data: {certificate}, client-key-data: {key}");
    fake.write_kubeconfig_with(&cluster(&fake), &user);
    seen.until("everything", |seen| seen.synced);
    // Somebody else's.
    let (certificate, key) = authority.sign("node-1");
    fs::write(fake.file("tls.crt"), certificate.pem()).unwrap();
    fs::write(fake.file("tls.key"), key.serialize_pem()).unwrap();
    let (certificate, key) = (fake.file("tls.crt"), fake.file("tls.key"));
    let user =
        format!("{TOKEN}, client-certificate: '{}', client-key: '{}'", certificate.display(), key.display());
    fake.write_kubeconfig_with(&cluster(&fake), &user);
    let error = refusal(&mut Seen::of(&fake, TIMING));
    assert!(error.contains("alert"), "{error}");
    let (certificate, key) = clients.sign("node-1");
    fs::write(fake.file("tls.crt"), certificate.pem()).unwrap();
    fs::write(fake.file("tls.key"), key.serialize_pem()).unwrap();
    follows(&fake);
}

#[test]
fn a_token_that_is_replaced_is_read_again() {
    let fake = server(&Authority::new(), "127.0.0.1", None);
    fs::write(fake.file("token"), "secret\n").unwrap();
    fake.write_kubeconfig_with(&cluster(&fake), &format!("tokenFile: '{}'", fake.file("token").display()));
    let mut seen = Seen::of(&fake, TIMING);
    seen.until("everything", |seen| seen.synced && seen.all_current());
    for (uid, token, content) in
        [("2", "second", "second"), ("3", "third", "third\n"), ("4", "fourth", "fourth")]
    {
        fake.with(|inner| {
            inner.token = token;
            inner.cuts += 1;
        });
        seen.until("the refusal", |seen| seen.error(ServerKind::Pod).contains("401"));
        fs::write(fake.file("token"), content).unwrap();
        fake.set(PODS, pod("web", uid, "10.0.0.1"));
        seen.until("the new one", |seen| seen.all_current() && seen.has("web", uid, "10.0.0.1"));
    }
}
