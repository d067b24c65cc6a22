//! What users' kernels have and the build machines lack, and the tests that show it at work. Where all of these tests were asked
//! for, a run fails unless each of them ran and passed; one that says SKIPPED has shown nothing.

use anyhow::{Result, ensure};

use crate::tally::Tally;

/// What is shown, and by which tests.
pub const PROOFS: &[(&str, &[&str])] = &[
    (
        "a process is born in its cgroup (CLONE_INTO_CGROUP)",
        &[
            "spawn::tests::a_process_is_born_in_a_cgroup",
            "a_process_is_born_in_its_cgroups",
        ],
    ),
    (
        "device rules are an eBPF program",
        &["device_rules_hold_on_v2", "device_rules_hold_below_too"],
    ),
    (
        "a limit is on every controller, unified keys among them",
        &[
            "controllers_are_passed_on_along_the_path",
            "keys_reach_their_files",
            "swap_and_huge_pages_have_limits_of_their_own",
            "limits_are_changed_while_a_container_runs",
        ],
    ),
    (
        "a container dies whole for lack of memory (memory.oom.group)",
        &["a_group_dies_together_for_lack_of_memory"],
    ),
    (
        "a fork bomb dies at once (cgroup.kill, pids.max)",
        &[
            "a_fork_bomb_stays_below_its_limit_and_dies_at_once",
            "a_fork_bomb_is_its_own_trouble",
        ],
    ),
    (
        "a container makes cgroups and passes controllers on to them",
        &["a_container_makes_cgroups_of_its_own", "a_container_that_makes_cgroups"],
    ),
    (
        "the host's cgroups are out of a container's reach",
        &["the_hosts_cgroups_are_out_of_reach"],
    ),
    (
        "AppArmor confines a container and its execs, by Hove's own profile or another",
        &[
            "a_profile_confines_a_container_and_what_is_executed_in_it",
            "hoves_own_profile_lets_a_container_work",
            "a_profile_holds_in_a_user_namespace",
            "a_missing_profile_is_an_error_and_not_a_container_without_one",
            "a_false_proc_in_the_container_does_not_take_the_label_away",
        ],
    ),
];

/// Prints which tests have shown what; fails when one of them has not.
pub fn check(tally: &Tally) -> Result<()> {
    println!();
    let mut missing: Vec<&str> = Vec::new();
    for (what, tests) in PROOFS {
        println!("{what}:\n    {}", tests.join("\n    "));
        let has_shown =
            |test: &str| tally.passed.contains(test) && !tally.skipped.iter().any(|skipped| skipped == test);
        missing.extend(tests.iter().filter(|test| !has_shown(test)));
    }
    ensure!(missing.is_empty(), "did not run and pass in the guest: {missing:?}");
    Ok(())
}
