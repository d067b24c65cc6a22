//! A pod's namespaces as a tree for a terminal.

use std::fmt::Write;

use crate::view::{Member, Owner, View};

/// More processes than these in one namespace are counted, not listed.
const PROCESSES_MAX: usize = 12;
/// Longer commands are cut.
const COMMAND_MAX: usize = 60;

/// Draws the tree, in colour for a terminal that has it.
pub fn tree(view: &View, coloured: bool) -> String {
    let paint = Paint(coloured);
    let mut out = format!("{}\n", paint.bold(&view.pod));
    let last_kind = view.kinds.len().saturating_sub(1);
    for (k, kind) in view.kinds.iter().enumerate() {
        let (branch, stem) = if k == last_kind {
            ("└─", "  ")
        } else {
            ("├─", "│ ")
        };
        let _ = writeln!(
            out,
            "{branch} {} {}",
            paint.bold(&format!("{:<6}", kind.kind)),
            paint.dim(kind.kind.what())
        );
        let last = kind.namespaces.len().saturating_sub(1);
        for (n, namespace) in kind.namespaces.iter().enumerate() {
            let (branch, inner) = if n == last {
                ("└─", "  ")
            } else {
                ("├─", "│ ")
            };
            let sharers = match namespace.shared_by.len() {
                0 | 1 => String::new(),
                _ => format!("  shared by {}", namespace.shared_by.join(", ")),
            };
            let owner = paint.owner(&namespace.owner);
            let _ = writeln!(
                out,
                "{stem} {branch} {}  {owner}{}",
                namespace.inode,
                paint.dim(&sharers)
            );
            // The host's namespaces are everybody's: who of the pod is in them says nothing about the pod's processes.
            let listed = if namespace.owner == Owner::Host {
                &[][..]
            } else {
                namespace.processes.as_slice()
            };
            let shown = listed.len().min(PROCESSES_MAX);
            for (p, member) in listed[..shown].iter().enumerate() {
                let branch = if p + 1 == listed.len() { "└─" } else { "├─" };
                let _ = writeln!(out, "{stem} {inner} {branch} {}", process(member, paint));
            }
            if listed.len() > shown {
                let _ = writeln!(out, "{stem} {inner} └─ … and {} more", listed.len() - shown);
            }
        }
    }
    for discrepancy in &view.discrepancies {
        let _ = writeln!(out, "{} {discrepancy}", paint.warn("!"));
    }
    out
}

fn process(member: &Member, paint: Paint) -> String {
    let command: String = if member.command.chars().count() > COMMAND_MAX {
        member.command.chars().take(COMMAND_MAX - 1).chain(['…']).collect()
    } else {
        member.command.clone()
    };
    let own = if member.own_pid == member.pid {
        String::new()
    } else {
        format!(" ({} inside)", member.own_pid)
    };
    format!(
        "{}{}  {command}  {}",
        member.pid,
        paint.dim(&own),
        paint.dim(&member.part)
    )
}

/// SGR sequences, or nothing.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn warn(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn owner(self, owner: &Owner) -> String {
        let code = match owner {
            Owner::Host => "2",
            Owner::Sandbox => "34",
            Owner::Container(_) => "32",
        };
        self.with(code, &owner.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::example;

    #[test]
    fn plain() {
        let expected = "\
default/two-containers
├─ net    links, addresses, ports
│  └─ 11  sandbox  shared by pause, nginx, debian
│     ├─ 101 (1 inside)  /pause  pause
│     ├─ 202 (2 inside)  nginx: master process  nginx
│     ├─ 203 (3 inside)  nginx: worker process  nginx
│     ├─ 304 (4 inside)  /bin/sh -c write  debian
│     └─ 305 (5 inside)  nested  debian
";
        let drawn = tree(&example(), false);
        assert!(drawn.starts_with(expected), "{drawn}");
        let end = "\
└─ user   user numbers
   └─ 5  host  shared by pause, nginx, debian
";
        assert!(drawn.ends_with(end), "{drawn}");
        assert!(!drawn.contains('\x1b'));
    }

    #[test]
    fn coloured_and_long() {
        let mut view = example();
        let template = view.kinds[0].namespaces[0].processes[0].clone();
        view.kinds[0].namespaces[0].processes = vec![
            Member {
                command: "x".repeat(200),
                ..template
            };
            10_000
        ];
        view.discrepancies.push("something is off".into());
        let drawn = tree(&view, true);
        assert!(drawn.contains("\x1b[34msandbox\x1b[0m"));
        assert!(drawn.contains("… and 9988 more"));
        assert!(!drawn.contains(&"x".repeat(61)));
        assert!(drawn.contains("something is off"));
    }
}
