//! The RuntimeDefault profile.

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::abi::ENOSYS;

/// What every container may call: the calls that containerd and Docker allow by default (their profiles of 2026). Not
/// among them: what changes the machine, namespaces, keyrings, io_uring, and kernel interfaces with a bad record.
const ALLOWED: &str = "
    _llseek _newselect accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir
    chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup
    dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64
    fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid
    getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
    getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid
    gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
    ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown
    lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek
    lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat
    mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2
    pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64
    prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6
    pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom
    recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
    restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile
    sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32
    setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32
    setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn
    socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat
    uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
";

/// What a capability in the bounding set allows beyond that.
const BY_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules \
         lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr perf_event_open quotactl quotactl_fd \
         setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (
        Capability::SysModule,
        "delete_module finit_module init_module query_module",
    ),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (
        Capability::SysNice,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// The execution domains that change nothing of what the kernel protects: Linux, 32-bit Linux, each also with the old
/// uname (UNAME26), and the question which one it is.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}`: namespaces are made by who has CAP_SYS_ADMIN.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// The socket families but AF_VSOCK (40), which reaches past every network namespace to the hypervisor: as blocks
/// (mask, value), so that the check looks at the 32 bits that the kernel does. A comparison of 64 bits would be passed
/// by 40 with a bit above them. Covers 0 to 63; families end at 46.
const SOCKET_FAMILIES: [(u64, u64); 5] = [
    (0xffff_ffe0, 0),
    (0xffff_fff8, 32),
    (0xffff_ffff, 41),
    (0xffff_fffe, 42),
    (0xffff_fffc, 44),
];

/// The profile for containers whose pod asks for `RuntimeDefault`: calls that are not listed fail with EPERM.
/// `capabilities` is the container's bounding set.
pub fn default_profile(capabilities: &Capabilities) -> LinuxSeccomp {
    let mut rules = vec![allow(ALLOWED)];
    rules.extend(
        BY_CAPABILITY
            .iter()
            .filter(|(c, _)| capabilities.contains(c))
            .map(|(_, names)| allow(names)),
    );
    rules.extend(PERSONALITIES.map(|p| allow_if("personality", LinuxSeccompOperator::ScmpCmpEq, p, None)));
    rules.extend(
        SOCKET_FAMILIES
            .map(|(mask, value)| allow_if("socket", LinuxSeccompOperator::ScmpCmpMaskedEq, mask, Some(value))),
    );
    if !capabilities.contains(&Capability::SysAdmin) {
        rules.push(allow_if(
            "clone",
            LinuxSeccompOperator::ScmpCmpMaskedEq,
            CLONE_NAMESPACES,
            Some(0),
        ));
        // Its flags are in memory, where a filter can't look. C libraries fall back to clone when it "does not exist".
        let mut refused = rule("clone3", LinuxSeccompAction::ScmpActErrno);
        refused.set_errno_ret(Some(ENOSYS));
        rules.push(refused);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_architectures(Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]))
        .set_syscalls(Some(rules));
    profile
}

fn rule(names: &str, action: LinuxSeccompAction) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.split_whitespace().map(str::to_owned).collect())
        .set_action(action);
    rule
}

fn allow(names: &str) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow)
}

/// Allowed if the first argument is as said.
fn allow_if(name: &str, op: LinuxSeccompOperator, value: u64, value_two: Option<u64>) -> LinuxSyscall {
    let mut arg: LinuxSeccompArg = LinuxSeccompArgBuilder::default()
        .index(0usize)
        .value(value)
        .op(op)
        .build()
        .expect("every field of the builder has a default");
    if let Some(two) = value_two {
        arg = LinuxSeccompArgBuilder::default()
            .index(0usize)
            .value(value)
            .value_two(two)
            .op(op)
            .build()
            .expect("every field of the builder has a default");
    }
    let mut rule = allow(name);
    rule.set_args(Some(vec![arg]));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_system_call_of_this_machine() {
        let all = BY_CAPABILITY.iter().map(|(_, names)| *names).chain([ALLOWED]);
        for name in all.flat_map(str::split_whitespace) {
            // One that the table lacks would be skipped silently.
            let elsewhere = ["fadvise64_64", "fstatat64", "recv", "send", "sync_file_range"];
            assert!(
                super::super::syscalls::numbers(name).is_some() || elsewhere.contains(&name),
                "{name}"
            );
        }
    }

    #[test]
    fn socket_families() {
        for family in 0..64u64 {
            let listed = SOCKET_FAMILIES.iter().any(|(mask, value)| family & mask == *value);
            assert_eq!(listed, family != 40 && family < 48, "{family}");
        }
    }
}
