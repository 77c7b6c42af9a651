//! The corpus of the fuzz targets: real frames, one a file under `frames/`, and a way to make near misses out of
//! them. A frame that once broke something is added as a file with a telling name, and stays.

#![allow(clippy::unwrap_used)] // tests: a missing corpus should fail loudly

use std::path::Path;
use std::sync::OnceLock;

/// Every frame of the corpus, in the order of the file names.
pub fn frames() -> &'static [Vec<u8>] {
    static FRAMES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FRAMES.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/frames");
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty());
        files.iter().map(|file| std::fs::read(file).unwrap()).collect()
    })
}

/// What a fuzzer decides: which frame, what to change, where to cut or how much to append, and whether the IPv4
/// header checksum is made right again (without that, nothing behind it would ever be reached).
pub type Mutation = (u8, Vec<(u8, u8)>, u8, bool);

/// The frame that `mutation` describes.
pub fn mutate((which, edits, cut, mend): &Mutation) -> Vec<u8> {
    let frames = frames();
    let mut frame = frames[usize::from(*which) % frames.len()].clone();
    for (at, value) in edits.iter().take(edits.len() % 5) {
        let length = frame.len();
        frame[usize::from(*at) % length] = *value;
    }
    match cut {
        0..=127 => {}
        128..=191 => frame.truncate(frame.len().saturating_sub(usize::from(cut - 127))),
        192..=255 => frame.resize(frame.len() + usize::from(cut - 191), 0xa5),
    }
    if *mend {
        mend_ipv4_checksum(&mut frame);
    }
    frame
}

fn mend_ipv4_checksum(frame: &mut [u8]) {
    if frame.len() < 34 || frame[12..14] != [8, 0] {
        return;
    }
    let end = 14 + usize::from(frame[14] & 0xf) * 4;
    if !(34..=frame.len()).contains(&end) {
        return;
    }
    frame[24..26].fill(0);
    let mut sum: u32 =
        frame[14..end].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
