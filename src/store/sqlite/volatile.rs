//! Which file systems would not keep a store: those in memory, those that vanish with a container, and those whose
//! locks or syncs cannot be relied on.

use std::io;
use std::path::Path;

/// The name of the file system that `directory` stands on, if a store must not stand there.
#[cfg(target_os = "linux")]
pub(super) fn volatile_file_system(directory: &Path) -> io::Result<Option<&'static str>> {
    // The field's type differs between platforms; the magic numbers are 32 bits wide on all of them.
    let magic = rustix::fs::statfs(directory)?.f_type as u32;
    Ok(name_of(magic))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn volatile_file_system(_directory: &Path) -> io::Result<Option<&'static str>> {
    Ok(None)
}

/// Magic numbers as in statfs(2).
#[cfg(target_os = "linux")]
fn name_of(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x794c_7630 => "overlay",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x9584_58f6 => "hugetlbfs",
        0x0000_6969 => "nfs",
        0x0000_517b => "smb",
        0xff53_4d42 => "cifs",
        0xfe53_4d42 => "smb2",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        0x00c3_6400 => "ceph",
        0x5346_414f | 0x6b41_4653 => "afs",
        0x7375_7245 => "coda",
        0x0bd0_0bd0 => "lustre",
        0x786f_4256 => "vboxsf",
        _ => return None,
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn overlay_memory_and_network_file_systems_are_named() {
        assert_eq!(name_of(0x794c_7630), Some("overlay"));
        assert_eq!(name_of(0x0102_1994), Some("tmpfs"));
        assert_eq!(name_of(0x6969), Some("nfs"));
        assert_eq!(name_of(0xef53), None, "ext4");
        assert_eq!(name_of(0x5846_5342), None, "xfs");
    }
}
