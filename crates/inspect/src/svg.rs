//! A pod's namespaces as a picture: a column for pause and for each container, a row for each kind of namespace, a box
//! around those who share one.

use std::fmt::Write;

use crate::view::{KindView, Namespace, Owner, View};

const MARGIN: usize = 24;
const LABELS: usize = 176;
const COLUMN: usize = 196;
const GAP: usize = 10;
const TITLE: usize = 64;
const HEADER: usize = 62;
const ROW: usize = 56;
const BOX: usize = 40;
const LEGEND: usize = 54;
/// What the legend's entries take side by side.
const LEGEND_WIDTH: usize = 720;
/// Text that would not fit its column is cut.
const COMMAND_MAX: usize = 28;
/// The same for names, which are set larger.
const NAME_MAX: usize = 20;

const INK: &str = "#1f2933";
const FAINT: &str = "#697586";
const FONT: &str = "ui-sans-serif, system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif";
/// Fill and border: the host's, the sandbox's, then the containers', over and over.
const HOST: (&str, &str) = ("#eceff3", "#b3bcc8");
const SANDBOX: (&str, &str) = ("#d7e7fd", "#4a86d8");
const CONTAINERS: [(&str, &str); 5] = [
    ("#dcf3df", "#4ba35b"),
    ("#fdeccf", "#d3922e"),
    ("#f3e1f7", "#a45cbb"),
    ("#d8f3f2", "#37a09b"),
    ("#fbdfe0", "#d05a63"),
];

/// Draws the picture.
pub fn svg(view: &View) -> String {
    let columns = view.parts.len().max(1);
    let notes = view.discrepancies.len() * 20;
    let width = (MARGIN * 2 + LABELS + columns * COLUMN).max(LEGEND_WIDTH);
    let height = MARGIN * 2 + TITLE + HEADER + view.kinds.len() * ROW + LEGEND + notes;
    let mut out = String::new();
    let _ = writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="{FONT}">
<title>Namespaces of pod {title}</title>
<rect width="{width}" height="{height}" fill="#fcfdfe"/>
<text x="{MARGIN}" y="{y1}" font-size="20" font-weight="600" fill="{INK}">{title}</text>
<text x="{MARGIN}" y="{y2}" font-size="12" fill="{FAINT}">Who is in which namespace. A box spans those who share one; the number is its inode.</text>"##,
        title = escape(&view.pod),
        y1 = MARGIN + 20,
        y2 = MARGIN + 42,
    );
    for (column, part) in view.parts.iter().enumerate() {
        header(&mut out, view, column, part);
    }
    for (row, kind) in view.kinds.iter().enumerate() {
        let y = MARGIN + TITLE + HEADER + row * ROW;
        row_of(&mut out, view, kind, y);
    }
    let legend_y = MARGIN + TITLE + HEADER + view.kinds.len() * ROW + 24;
    legend(&mut out, view, legend_y);
    for (n, discrepancy) in view.discrepancies.iter().enumerate() {
        let y = legend_y + 44 + n * 20;
        let _ = writeln!(
            out,
            r##"<text x="{MARGIN}" y="{y}" font-size="12" fill="#b42318">! {}</text>"##,
            escape(discrepancy)
        );
    }
    out.push_str("</svg>\n");
    out
}

fn column_x(column: usize) -> usize {
    MARGIN + LABELS + column * COLUMN
}

fn header(out: &mut String, view: &View, column: usize, part: &str) {
    let centre = column_x(column) + (COLUMN - GAP) / 2;
    let y = MARGIN + TITLE + 18;
    let first = view
        .kinds
        .iter()
        .flat_map(|kind| &kind.namespaces)
        .flat_map(|namespace| &namespace.processes)
        .find(|member| member.part == part);
    let border = if part == crate::view::PAUSE {
        SANDBOX.1
    } else {
        container_colour(view, part).1
    };
    let _ = writeln!(
        out,
        r##"<text x="{centre}" y="{y}" font-size="15" font-weight="600" fill="{border}" text-anchor="middle">{}</text>"##,
        escape(&cut(part, NAME_MAX))
    );
    if let Some(member) = first {
        let _ = writeln!(
            out,
            r##"<text x="{centre}" y="{}" font-size="11" fill="{FAINT}" text-anchor="middle">{}</text>
<text x="{centre}" y="{}" font-size="11" fill="{FAINT}" text-anchor="middle">pid {}</text>"##,
            y + 16,
            escape(&cut(&member.command, COMMAND_MAX)),
            y + 30,
            member.pid,
        );
    }
}

fn row_of(out: &mut String, view: &View, kind: &KindView, y: usize) {
    let middle = y + BOX / 2;
    let _ = writeln!(
        out,
        r##"<text x="{MARGIN}" y="{}" font-size="14" font-weight="600" fill="{INK}">{}</text>
<text x="{MARGIN}" y="{}" font-size="11" fill="{FAINT}">{}</text>"##,
        middle - 2,
        kind.kind,
        middle + 13,
        kind.kind.what(),
    );
    for namespace in &kind.namespaces {
        for (start, length) in runs(view, namespace) {
            namespace_box(out, view, namespace, (start, length), y);
        }
    }
}

/// The columns that share a namespace, as runs of neighbours: (first, how many).
fn runs(view: &View, namespace: &Namespace) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (column, part) in view.parts.iter().enumerate() {
        if !namespace.shared_by.contains(part) {
            continue;
        }
        match runs.last_mut() {
            Some((start, length)) if *start + *length == column => *length += 1,
            _ => runs.push((column, 1)),
        }
    }
    runs
}

fn namespace_box(out: &mut String, view: &View, namespace: &Namespace, (start, length): (usize, usize), y: usize) {
    let (fill, border) = colour(view, &namespace.owner);
    let x = column_x(start);
    let width = length * COLUMN - GAP;
    let dashes = if namespace.owner == Owner::Host {
        r#" stroke-dasharray="5 4""#
    } else {
        ""
    };
    let mut tip = format!("{}, {}", namespace.inode, namespace.owner);
    for member in namespace.processes.iter().take(20) {
        let _ = write!(
            tip,
            "\n{} ({}) {} [{}]",
            member.pid, member.own_pid, member.command, member.part
        );
    }
    // A container's name stands over its column, where it has more room.
    let owner = match &namespace.owner {
        Owner::Container(_) => "container's own".to_owned(),
        owner => owner.to_string(),
    };
    let count = match namespace.processes.len() {
        1 => "1 process".to_owned(),
        n => format!("{n} processes"),
    };
    let _ = writeln!(
        out,
        r##"<g><title>{}</title><rect x="{x}" y="{y}" width="{width}" height="{BOX}" rx="7" fill="{fill}" stroke="{border}" stroke-width="1.5"{dashes}/>
<text x="{cx}" y="{y1}" font-size="12" fill="{INK}" text-anchor="middle">{}</text>
<text x="{cx}" y="{y2}" font-size="10.5" fill="{FAINT}" text-anchor="middle">{} · {count}</text></g>"##,
        escape(&tip),
        namespace.inode,
        escape(&owner),
        cx = x + width / 2,
        y1 = y + 17,
        y2 = y + 32,
    );
}

fn legend(out: &mut String, view: &View, y: usize) {
    let mut x = MARGIN;
    let mut entries = vec![
        (Owner::Host, "the host's, shared with everybody".to_owned()),
        (Owner::Sandbox, "the sandbox's: held for the pod".to_owned()),
    ];
    if let Some(part) = view.parts.iter().find(|part| *part != crate::view::PAUSE) {
        entries.push((Owner::Container(part.clone()), "one container's own".to_owned()));
    }
    for (owner, text) in entries {
        let (fill, border) = colour(view, &owner);
        let dashes = if owner == Owner::Host {
            r#" stroke-dasharray="4 3""#
        } else {
            ""
        };
        let _ = writeln!(
            out,
            r##"<rect x="{x}" y="{y}" width="18" height="13" rx="3" fill="{fill}" stroke="{border}"{dashes}/>
<text x="{}" y="{}" font-size="11.5" fill="{FAINT}">{text}</text>"##,
            x + 25,
            y + 11,
        );
        x += 50 + text.len() * 6;
    }
}

fn colour(view: &View, owner: &Owner) -> (&'static str, &'static str) {
    match owner {
        Owner::Host => HOST,
        Owner::Sandbox => SANDBOX,
        Owner::Container(name) => container_colour(view, name),
    }
}

fn container_colour(view: &View, name: &str) -> (&'static str, &'static str) {
    let containers = view.parts.iter().filter(|part| *part != crate::view::PAUSE);
    let place = containers.clone().position(|part| part == name).unwrap_or(0);
    CONTAINERS[place % CONTAINERS.len()]
}

fn cut(text: &str, characters: usize) -> String {
    if text.chars().count() <= characters {
        return text.to_owned();
    }
    text.chars().take(characters - 1).chain(['…']).collect()
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no way to write other control characters.
            c if c.is_control() && c != '\n' => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Kind;
    use crate::view::tests::example;

    #[test]
    fn neighbours_share_a_box() {
        let view = example();
        let shared = Namespace {
            inode: 1,
            owner: Owner::Sandbox,
            shared_by: vec![],
            processes: vec![],
        };
        let of = |parts: &[&str]| {
            let shared_by = parts.iter().map(|p| (*p).to_owned()).collect();
            runs(
                &view,
                &Namespace {
                    shared_by,
                    ..shared.clone()
                },
            )
        };
        assert_eq!(of(&["pause", "nginx", "debian"]), [(0, 3)]);
        assert_eq!(of(&["pause", "debian"]), [(0, 1), (2, 1)]);
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn every_part_and_kind_is_there_and_text_is_escaped() {
        let mut view = example();
        view.pod = "<&\">".into();
        let drawn = svg(&view);
        assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
        assert!(drawn.contains("&lt;&amp;&quot;&gt;") && !drawn.contains("<&"));
        for part in ["pause", "nginx", "debian"] {
            assert!(drawn.contains(&format!(">{part}</text>")));
        }
        for kind in [Kind::Net, Kind::Mnt, Kind::User] {
            assert!(drawn.contains(&format!(">{kind}</text>")));
        }
        // Well-formed as far as counting goes: every element that is opened is closed.
        for element in ["g", "text", "title", "svg"] {
            let opened =
                drawn.matches(&format!("<{element} ")).count() + drawn.matches(&format!("<{element}>")).count();
            assert_eq!(opened, drawn.matches(&format!("</{element}>")).count(), "{element}");
        }
    }
}
