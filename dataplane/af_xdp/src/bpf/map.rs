//! BPF maps: the table of sockets by queue (XSKMAP), and the uplink's table of pod addresses (HASH).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::bpf::{self, object_name};

/// What a map must look like; a pinned one that looks different is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) kind: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
}

/// `BPF_MAP_TYPE_HASH` of `enum bpf_map_type`.
pub(crate) const HASH: u32 = 1;
/// `BPF_MAP_TYPE_XSKMAP` of `enum bpf_map_type`.
pub(crate) const XSKMAP: u32 = 17;

/// `union bpf_attr`, BPF_MAP_CREATE.
#[repr(C)]
#[derive(Default)]
struct CreateAttributes {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// `union bpf_attr`, BPF_MAP_*_ELEM.
#[repr(C)]
struct ElementAttributes {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Begin of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// A map with keys `K` and values `V`, which are plain integers or arrays of bytes.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    fd: OwnedFd,
    max_entries: u32,
    types: std::marker::PhantomData<fn(K, V)>,
}

impl<K: Copy + Default, V: Copy> Map<K, V> {
    /// The shape of a map of this type. The one place that ties the Rust types to what the kernel reads and writes.
    pub(crate) fn shape(kind: u32, max_entries: u32) -> Shape {
        Shape { kind, key_size: size_of::<K>() as u32, value_size: size_of::<V>() as u32, max_entries }
    }

    /// A new map.
    pub(crate) fn create(kind: u32, max_entries: u32, name: &str) -> io::Result<Self> {
        let shape = Self::shape(kind, max_entries);
        let mut attributes = CreateAttributes {
            map_type: shape.kind,
            key_size: shape.key_size,
            value_size: shape.value_size,
            max_entries,
            map_name: object_name(name),
            ..Default::default()
        };
        // SAFETY: the attributes of this command, without addresses.
        let fd = unsafe { bpf::call_for_fd(bpf::BPF_MAP_CREATE, &mut attributes) }?;
        Ok(Map { fd, max_entries, types: std::marker::PhantomData })
    }

    /// A map opened from a pin, if it has the right type, and at least as many entries.
    pub(crate) fn adopt(fd: OwnedFd, kind: u32, max_entries: u32) -> Option<Self> {
        // SAFETY: MapInfo is a prefix of struct bpf_map_info; for another kind of object the numbers just do not match.
        let info: MapInfo = unsafe { bpf::info(fd.as_fd()) }.ok()?;
        let found = Shape {
            kind: info.kind,
            key_size: info.key_size,
            value_size: info.value_size,
            max_entries: info.max_entries,
        };
        let enough = found.max_entries >= max_entries;
        let fits = found == Shape { max_entries: found.max_entries, ..Self::shape(kind, 0) };
        (fits && enough).then_some(Map {
            fd,
            max_entries: found.max_entries,
            types: std::marker::PhantomData,
        })
    }

    pub(crate) fn max_entries(&self) -> u32 {
        self.max_entries
    }

    pub(crate) fn insert(&self, key: K, value: V) -> io::Result<()> {
        self.element(bpf::BPF_MAP_UPDATE_ELEM, &key, (&raw const value) as u64)
    }

    /// Not an error if the key is not there.
    pub(crate) fn remove(&self, key: K) -> io::Result<()> {
        match self.element(bpf::BPF_MAP_DELETE_ELEM, &key, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// All keys of a hash map. Exact only while nobody changes it.
    pub(crate) fn keys(&self) -> io::Result<Vec<K>> {
        let mut keys = Vec::new();
        let mut next = K::default();
        let mut last: Option<K> = None;
        // Bounded: a map that changes meanwhile may begin anew.
        for _ in 0..self.max_entries.saturating_mul(2) {
            let from = last.as_ref().map_or(0, |key| (&raw const *key) as u64);
            match self.raw(bpf::BPF_MAP_GET_NEXT_KEY, from, (&raw mut next) as u64) {
                Ok(()) => keys.push(next),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
                Err(error) => return Err(error),
            }
            last = Some(next);
        }
        Ok(keys)
    }

    fn element(&self, command: libc::c_int, key: &K, value: u64) -> io::Result<()> {
        self.raw(command, (&raw const *key) as u64, value)
    }

    /// `key` and `value` are 0 or addresses of a `K` and, except for the next key, which is a `K` too, of a `V`.
    fn raw(&self, command: libc::c_int, key: u64, value: u64) -> io::Result<()> {
        let map_fd = self.fd.as_raw_fd() as u32;
        let mut attributes = ElementAttributes { map_fd, _pad: 0, key, value, flags: 0 };
        // SAFETY: the map was made, or checked on adoption, with the sizes of K and V; the callers above pass addresses of
        // such values that outlive the call, mutable for the one that the kernel writes.
        unsafe { bpf::call(command, &mut attributes) }.map(drop)
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
