//! What a proxy needs to come back while the operator is away: its key, certificate and trust bundle, its workload, its destinations.
//!
//! # Expected flow
//!
//! `main` calls [`StateDir::load`] once at the start; afterwards [`StateDir::write`] and [`StateDir::remove`] are called as things
//! change. The directory is a memory-backed volume that no other container mounts, so writes cost microseconds, need no fsync, and end
//! with the pod.
//!
//! # Guarantees
//!
//! A file is replaced whole or not at all, is readable by the proxy alone, and carries a checksum: one that is torn, foreign or of
//! another format is ignored, with a warning, and the proxy starts as if it were absent.

use std::{
    fs,
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use fairlead_proxy_api::v1;
use prost::Message;
use ring::digest;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::{MAX_DESTINATIONS, from_proto};
use crate::identity::{Leaf, SpiffeId, TrustBundle};

/// Says what the file is; the number grows when its content changes incompatibly.
const MAGIC: &[u8] = b"fairlead state 1\n";
/// Ends the name of a file that is not whole yet.
const TEMPORARY: &str = ".tmp";
/// As large as the largest message that the stream accepts.
const MAX_FILE: u64 = 4 * 1024 * 1024 + 1024;

/// Something that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entry {
    /// Key, chain and bundle, in one file because they belong together.
    Identity,
    /// The proxy's own workload.
    Workload,
    /// One destination.
    Destination(SocketAddr),
}

impl Entry {
    fn file_name(self) -> String {
        match self {
            Self::Identity => "identity".to_owned(),
            Self::Workload => "workload".to_owned(),
            // An address is digits, dots, colons and brackets: fine in a file name.
            Self::Destination(address) => format!("destination-{address}"),
        }
    }
}

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Restored {
    /// A certificate that is still valid, with the bundle it was checked against.
    pub identity: Option<(Leaf, TrustBundle)>,
    /// The proxy's own workload.
    pub workload: Option<v1::Resource>,
    /// By address.
    pub destinations: Vec<v1::Resource>,
}

/// Key, chain and bundle, as they lie in the file.
#[derive(Clone, PartialEq, prost::Message)]
struct IdentityFile {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    chain: Vec<Vec<u8>>,
    #[prost(message, optional, tag = "3")]
    bundle: Option<v1::TrustBundle>,
}

/// The directory.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Must exist and be writable; [`write`](Self::write) fails otherwise.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Reads what is usable. `own` is who this pod is: another's certificate is ignored, as is one that has ended by `now`.
    pub fn load(&self, own: &SpiffeId, now: SystemTime) -> Restored {
        let mut restored = Restored::default();
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(directory = %self.0.display(), %error, "cannot read the state directory: starting without");
                return restored;
            }
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str());
            let result = match name {
                Some("identity") => read(&path)
                    .and_then(|body| identity(&body, own, now))
                    .map(|identity| restored.identity = Some(identity)),
                Some("workload") => read_resource(&path).map(|workload| restored.workload = Some(workload)),
                Some(name) if name.starts_with("destination-") => {
                    if restored.destinations.len() < MAX_DESTINATIONS {
                        read_resource(&path).map(|resource| restored.destinations.push(resource))
                    } else {
                        Ok(())
                    }
                }
                // What a write that was cut short left behind.
                Some(name) if name.ends_with(TEMPORARY) => fs::remove_file(&path).map_err(|error| error.to_string()),
                _ => Ok(()),
            };
            if let Err(reason) = result {
                tracing::warn!(file = %path.display(), reason, "ignoring saved state");
            }
        }
        restored
    }

    /// Replaces an entry.
    pub fn write(&self, entry: Entry, body: &[u8]) -> io::Result<()> {
        let name = entry.file_name();
        let temporary = self.0.join(format!("{name}{TEMPORARY}"));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&framed(body))?;
        drop(file);
        fs::rename(temporary, self.0.join(name))
    }

    /// Forgets an entry; one that is not there is fine.
    pub fn remove(&self, entry: Entry) -> io::Result<()> {
        match fs::remove_file(self.0.join(entry.file_name())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Replaces key, chain and bundle.
    pub fn write_identity(&self, leaf: &Leaf, bundle: &TrustBundle) -> io::Result<()> {
        let file = IdentityFile {
            key: leaf.key().secret_pkcs8_der().to_vec(),
            chain: leaf.chain().iter().map(|der| der.to_vec()).collect(),
            bundle: Some(bundle.to_proto()),
        };
        self.write(Entry::Identity, &file.encode_to_vec())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    body(&bytes).map(<[u8]>::to_vec).map_err(Into::into)
}

/// A file's content from what is to be kept.
pub(super) fn framed(body: &[u8]) -> Vec<u8> {
    [MAGIC, digest::digest(&digest::SHA256, body).as_ref(), body].concat()
}

/// What is kept in a file of this content. The error is a sentence.
pub(super) fn body(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it is not of this version's format")?;
    let (sum, body) = rest.split_at_checked(digest::SHA256_OUTPUT_LEN).ok_or("it is cut short")?;
    if digest::digest(&digest::SHA256, body).as_ref() != sum {
        return Err("its checksum does not match");
    }
    Ok(body)
}

fn read_resource(path: &Path) -> Result<v1::Resource, String> {
    let body = read(path)?;
    v1::Resource::decode(&body[..]).map_err(|error| error.to_string())
}

/// The address that a saved destination is for.
pub(super) fn address_of(resource: &v1::Resource) -> Option<SocketAddr> {
    match resource.name.as_ref()?.kind.as_ref()? {
        v1::resource_name::Kind::Destination(address) => from_proto(address),
        v1::resource_name::Kind::Workload(_) => None,
    }
}

/// The leaf and the bundle in a file that is whole.
pub(super) fn identity(body: &[u8], own: &SpiffeId, now: SystemTime) -> Result<(Leaf, TrustBundle), String> {
    let file = IdentityFile::decode(body).map_err(|error| error.to_string())?;
    let bundle = TrustBundle::from_proto(file.bundle.unwrap_or_default()).map_err(|error| error.to_string())?;
    let chain = file.chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivatePkcs8KeyDer::from(file.key);
    let leaf = Leaf::new(own, key, chain, &bundle, now).map_err(|error| error.to_string())?;
    Ok((leaf, bundle))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    use super::*;
    use crate::{
        config::destination_name,
        identity::testing::{Authority, DAY, id},
    };

    const OWN: &str = "spiffe://cluster.local/ns/bookinfo/sa/reviews";

    fn state() -> (tempfile::TempDir, StateDir) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::new(directory.path().to_owned());
        (directory, state)
    }

    fn resource(address: &str) -> v1::Resource {
        v1::Resource { name: Some(destination_name(address.parse().unwrap())), version: "7".into(), body: None }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let (directory, state) = state();
        let authority = Authority::new();
        let leaf = authority.leaf(OWN);
        state.write_identity(&leaf, &authority.bundle(3)).unwrap();
        for address in ["10.0.0.1:80", "[fd00::1]:80"] {
            let entry = Entry::Destination(address.parse().unwrap());
            state.write(entry, &resource(address).encode_to_vec()).unwrap();
        }
        let restored = state.load(&id(OWN), SystemTime::now());
        let (again, bundle) = restored.identity.unwrap();
        assert_eq!(again.chain(), leaf.chain());
        assert_eq!(bundle.sequence(), 3);
        assert!(restored.workload.is_none());
        let mut addresses: Vec<_> = restored.destinations.iter().filter_map(address_of).collect();
        addresses.sort();
        assert_eq!(addresses, ["10.0.0.1:80", "[fd00::1]:80"].map(|a| a.parse::<SocketAddr>().unwrap()));
        for file in fs::read_dir(directory.path()).unwrap() {
            let mode = file.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }

        let entry = Entry::Destination("10.0.0.1:80".parse().unwrap());
        state.remove(entry).unwrap();
        state.remove(entry).unwrap();
        assert_eq!(state.load(&id(OWN), SystemTime::now()).destinations.len(), 1);
    }

    #[test]
    fn damaged_state_is_as_good_as_none() {
        let (directory, state) = state();
        let authority = Authority::new();
        state.write_identity(&authority.leaf(OWN), &authority.bundle(1)).unwrap();
        let path = directory.path().join("identity");
        let good = fs::read(&path).unwrap();
        let load = || state.load(&id(OWN), SystemTime::now()).identity;
        assert!(load().is_some());

        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bad in [&flipped[..], &good[..good.len() / 2], &good[..20], b"", b"fairlead state 9\n"] {
            fs::write(&path, bad).unwrap();
            assert!(load().is_none());
        }
        fs::write(directory.path().join("workload"), b"\xff\xff").unwrap();
        fs::write(directory.path().join("identity.tmp"), b"half").unwrap();
        assert!(state.load(&id(OWN), SystemTime::now()).workload.is_none());
        assert!(!directory.path().join("identity.tmp").exists());
    }

    #[test]
    fn a_certificate_of_somebody_else_or_of_the_past_is_not_used() {
        let (_directory, state) = state();
        let authority = Authority::new();
        state.write_identity(&authority.leaf(OWN), &authority.bundle(1)).unwrap();
        let now = SystemTime::now();
        let other = id("spiffe://cluster.local/ns/bookinfo/sa/ratings");
        assert!(state.load(&other, now).identity.is_none());
        assert!(state.load(&id(OWN), now + 2 * DAY).identity.is_none());
        assert!(state.load(&id(OWN), now + Duration::from_secs(60)).identity.is_some());
    }

    #[test]
    fn a_missing_directory_is_not_fatal() {
        let state = StateDir::new("/nonexistent/fairlead".into());
        let restored = state.load(&id(OWN), SystemTime::now());
        assert!(restored.identity.is_none() && restored.destinations.is_empty());
        assert!(state.write(Entry::Workload, b"").is_err());
    }
}
