//! As whom a process runs: user, groups and home, from the container's own /etc/passwd and /etc/group.
//!
//! Pure: text in, numbers out. The files come from the container's image, so nothing in them is trusted to be well
//! formed; a line that is not is no entry.

use crate::{Error, Result};

/// `(uid_t) -1`: no user and no group. setresuid(2) takes it for "unchanged".
pub(crate) const NO_ID: u32 = u32::MAX;

/// As whom a process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The home directory; "/" when /etc/passwd has no entry.
    pub home: String,
}

/// As whom a process shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub uid: u32,
    pub gid: u32,
    /// The spec's supplementary groups.
    pub groups: Vec<u32>,
    /// "name", "name:group", "1000", "1000:50", ":group": overrides uid and gid.
    pub user: Option<String>,
    /// Whether the groups that /etc/group lists for the user are added.
    pub merge_groups: bool,
}

impl Wanted {
    /// Resolves in the text of the container's passwd and group files.
    pub fn resolve(&self, passwd: &str, group: &str) -> Result<Identity> {
        let (mut uid, mut gid) = (self.uid, self.gid);
        if let Some(text) = &self.user {
            let (user, explicit_group) = match text.split_once(':') {
                Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
                None => (text.as_str(), None),
            };
            if !user.is_empty() {
                (uid, gid) = find_user(user, passwd).ok_or_else(|| Error::User {
                    user: text.clone(),
                    reason: format!("no user {user:?} in the container's /etc/passwd"),
                })?;
            }
            if let Some(name) = explicit_group {
                gid = find_group(name, group).ok_or_else(|| Error::User {
                    user: text.clone(),
                    reason: format!("no group {name:?} in the container's /etc/group"),
                })?;
            }
        }
        for (what, id) in [("user", uid), ("group", gid)] {
            if id == NO_ID {
                let reason = format!(
                    "{NO_ID} is not an id: to the kernel that {what} means \"leave it as it is\", which is root"
                );
                let user = self.user.clone().unwrap_or_else(|| id.to_string());
                return Err(Error::User { user, reason });
            }
        }
        let entry = users(passwd).find(|u| u.uid == uid);
        let mut groups = Vec::new();
        let mut add = |gid| {
            if !groups.contains(&gid) {
                groups.push(gid);
            }
        };
        if self.user.is_some() || self.merge_groups {
            // The group itself as well: a set-group-id program could otherwise put it off, and with it what is denied to its
            // members (CVE-2022-36109, CVE-2023-25173).
            add(gid);
        }
        self.groups.iter().copied().for_each(&mut add);
        if let Some(user) = entry.as_ref().filter(|_| self.merge_groups) {
            self::groups(group)
                .filter(|g| g.gid != NO_ID && g.has(user.name))
                .for_each(|g| add(g.gid));
        }
        let home = entry
            .map(|u| u.home)
            .filter(|home| !home.is_empty())
            .unwrap_or("/")
            .to_owned();
        Ok(Identity { uid, gid, groups, home })
    }
}

/// Whether it is a number. Then it is never a name, even if it is out of range: whoever was told that a container runs as 1000
/// must not find it running as what the image calls "1000" (CVE-2026-46680).
fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// A number needs no entry (its group is then 0).
fn find_user(user: &str, passwd: &str) -> Option<(u32, u32)> {
    if is_number(user) {
        let uid = user.parse().ok()?;
        let entry = users(passwd).find(|u| u.uid == uid);
        return Some((uid, entry.map_or(0, |u| u.gid)));
    }
    users(passwd).find(|u| u.name == user).map(|u| (u.uid, u.gid))
}

fn find_group(name: &str, group: &str) -> Option<u32> {
    if is_number(name) {
        return name.parse().ok();
    }
    groups(group).find(|g| g.name == name).map(|g| g.gid)
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// `name:password:uid:gid:comment:home:shell`
fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or("");
        Some(User { name, uid, gid, home })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl Group<'_> {
    fn has(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == user)
    }
}

/// `name:password:gid:member,member`
fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Group {
            name,
            gid,
            members: fields.next().unwrap_or(""),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nweb:x:33:34:Web,,,:/srv/www:/bin/false\n\
        1000:x:55:56::/odd:/bin/sh\nnohome:x:70:70\nuser:x:1001:1001::/home/user:/bin/sh\n";
    const GROUP: &str =
        "root:x:0:\nweb:x:34:\nlog:x:4:web,user\ndisk:x:6:user , web\n77:x:78:\nbad:x:y:web\nstaff:x:50:\n";

    fn resolve(user: &str, groups: &[u32], merge_groups: bool) -> Result<Identity> {
        let user = Some(user.to_owned()).filter(|u| u != "-");
        Wanted {
            uid: 33,
            gid: 9,
            groups: groups.to_vec(),
            user,
            merge_groups,
        }
        .resolve(PASSWD, GROUP)
    }

    #[test]
    fn users_and_groups_by_name_and_number() {
        for (user, given, merge, expected) in [
            // No annotation: the spec's numbers as they are; the home from passwd.
            ("-", &[5][..], false, (33, 9, vec![5], "/srv/www")),
            ("-", &[5, 5, 4], true, (33, 9, vec![9, 5, 4, 6], "/srv/www")),
            ("web", &[], true, (33, 34, vec![34, 4, 6], "/srv/www")),
            ("web", &[], false, (33, 34, vec![34], "/srv/www")),
            ("web:staff", &[1], true, (33, 50, vec![50, 1, 4, 6], "/srv/www")),
            ("web:99", &[], false, (33, 99, vec![99], "/srv/www")),
            ("web:", &[], false, (33, 34, vec![34], "/srv/www")),
            (":staff", &[], false, (33, 50, vec![50], "/srv/www")),
            // A group that is called 77, and a user that is called 1000, are not what the numbers mean.
            ("web:77", &[], false, (33, 77, vec![77], "/srv/www")),
            ("1000", &[], false, (1000, 0, vec![0], "/")),
            ("1001", &[], true, (1001, 1001, vec![1001, 4, 6], "/home/user")),
            ("4242", &[], true, (4242, 0, vec![0], "/")),
            ("4242:4243", &[], true, (4242, 4243, vec![4243], "/")),
            ("nohome", &[], true, (70, 70, vec![70], "/")),
            ("root", &[], true, (0, 0, vec![0], "/root")),
        ] {
            let (uid, gid, groups, home) = expected;
            let expected = Identity {
                uid,
                gid,
                groups,
                home: home.into(),
            };
            assert_eq!(resolve(user, given, merge).unwrap(), expected, "{user:?}");
        }
    }

    #[test]
    fn what_is_unknown_is_named() {
        let message = |user| resolve(user, &[], true).unwrap_err().to_string();
        assert_eq!(
            message("nginx"),
            "user \"nginx\": no user \"nginx\" in the container's /etc/passwd"
        );
        assert_eq!(
            message("web:nope"),
            "user \"web:nope\": no group \"nope\" in the container's /etc/group"
        );
        assert!(message("-1").contains("no user"));
        assert!(message("4294967296").contains("no user"));
        for user in ["4294967295", "web:4294967295", "4294967295:0"] {
            assert!(message(user).contains("is not an id"), "{user}");
        }
        // By a name, out of the image.
        let wanted = Wanted {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            user: Some("all".into()),
            merge_groups: true,
        };
        assert!(wanted.resolve("all:x:4294967295:7::/:\n", "").is_err());
        // Groups that the image's file makes of it are no groups.
        let group = "one:x:4294967295:all\ntwo:x:8:all\n";
        assert_eq!(wanted.resolve("all:x:7:7::/:\n", group).unwrap().groups, [7, 8]);
    }
}
