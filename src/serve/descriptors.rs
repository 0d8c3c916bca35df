//! How many callers may be connected at once. Each takes a file descriptor, and so do the store, lookup tables and the
//! connections to the vendors: callers who took all of them would stop everything else too.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept for everything but callers.
const OWN: usize = 512;

/// As many as `wanted`, as far as the process may open descriptors. Takes all that the system lets it have: a shell's
/// usual 1,024 are a default and no decision of anybody's.
pub(super) fn connections(wanted: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let limit = if raised { maximum } else { current };
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let connections = within(limit, wanted);
    if connections < wanted {
        tracing::warn!(
            descriptors = limit,
            connections,
            "few file descriptors: raise the limit (LimitNOFILE, ulimit -n)"
        );
    }
    connections
}

fn within(limit: usize, wanted: usize) -> usize {
    // Where there are very few, half of them.
    let for_callers = limit.saturating_sub(OWN).max(limit / 2);
    wanted.min(for_callers).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_leave_descriptors_to_the_store() {
        for (limit, connections) in
            [(usize::MAX, 16_384), (65_536, 16_384), (16_384, 15_872), (1_024, 512), (256, 128), (1, 1)]
        {
            assert_eq!(within(limit, 16_384), connections, "{limit}");
        }
        assert!(connections(16_384) >= 1);
    }
}
