//! The config's mounts: sources opened early, attached in order, sealed last.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use sys::mount::{Attributes, RDONLY};

use super::cgroups::{self, View};
use super::idmap::{self, Idmaps};
use super::namespaces::Namespaces;
use super::options::{self, Options, Recursive};
use super::step::{Bind, Filesystem, Idmap, Step};
use super::text::{absolute, c_path, c_string};
use crate::request::RESOLVED_SOURCES_ANNOTATION;
use crate::{Error, Result};

/// `MS_PRIVATE`.
const PRIVATE: u64 = 1 << 18;
/// `MS_SHARED`.
const SHARED: u64 = 1 << 20;

/// What the config's mounts come to.
#[derive(Debug)]
pub(crate) struct Mounts {
    attach: Vec<Step>,
    late: Vec<Step>,
    sources: usize,
    binds_dev: bool,
}

impl Mounts {
    /// Reads the config; pushes the steps that open the sources of bind mounts.
    pub fn read(spec: &Spec, namespaces: &Namespaces, idmaps: &mut Idmaps, open: &mut Vec<Step>) -> Result<Mounts> {
        let resolved = resolved_sources(spec)?;
        let list = spec.mounts().as_deref().unwrap_or_default();
        let mut mounts = Mounts {
            attach: Vec::new(),
            late: Vec::new(),
            sources: 0,
            binds_dev: false,
        };
        for (i, mount) in list.iter().enumerate() {
            let field = format!("mounts[{i}]");
            let options = options::parse(mount.options().as_deref().unwrap_or_default());
            let destination = normal(mount.destination());
            if destination == Path::new("/") {
                return Err(Error::spec(
                    field + ".destination",
                    mount.destination().display(),
                    "must not be the root",
                ));
            }
            let kind = mount.typ().as_deref().unwrap_or("");
            let idmap = idmap(&field, spec, mount, &options, idmaps)?;
            if options.bind.is_some() || kind == "bind" {
                if namespaces.has_user() && (options.attributes.propagation | options.recursive.propagation) == SHARED {
                    // Handed in from outside it would be a peer of the host's mount, which the kernel keeps from every mount
                    // that a user namespace inherits.
                    let rule =
                        "a container in a user namespace can't mount on the host: slave and private are possible";
                    return Err(Error::spec(field + ".options", "shared", rule));
                }
                mounts.binds_dev |= destination == Path::new("/dev");
                let follow = !resolved.iter().any(|s| mount.source().as_deref() == Some(Path::new(s)));
                mounts.bind(&field, mount, options, &destination, (follow, idmap), open)?;
            } else if idmap.is_some() {
                return Err(Error::spec(
                    field + ".uidMappings",
                    kind,
                    "only a bind mount's ids can be mapped",
                ));
            } else if kind == "cgroup" || kind == "cgroup2" {
                let own = namespaces.is_new(LinuxNamespaceType::Cgroup);
                mounts.cgroup(&field, cgroups::view(&field, spec, own)?, options, &destination, open)?;
            } else if kind.is_empty() {
                return Err(Error::spec(
                    field + ".type",
                    "nothing",
                    "must name a file system, or be a bind mount",
                ));
            } else {
                let nested = list[i + 1..]
                    .iter()
                    .any(|m| normal(m.destination()).starts_with(&destination));
                let devices = destination == Path::new("/dev");
                mounts.filesystem(&field, mount, kind, options, &destination, nested || devices)?;
            }
        }
        Ok(mounts)
    }

    /// The steps that attach them.
    pub fn mount(&mut self, steps: &mut Vec<Step>) {
        steps.append(&mut self.attach);
    }

    /// The steps that seal what had to stay writable for the others.
    pub fn finish(&mut self, steps: &mut Vec<Step>) {
        steps.append(&mut self.late);
    }

    /// Whether /dev is the host's or the user's: then nothing is made in it.
    pub fn binds_dev(&self) -> bool {
        self.binds_dev
    }

    /// How many sources are open at a time.
    pub fn sources(&self) -> usize {
        self.sources
    }

    fn bind(
        &mut self,
        field: &str,
        mount: &Mount,
        options: Options,
        destination: &Path,
        (follow, idmap): (bool, Option<Idmap>),
        open: &mut Vec<Step>,
    ) -> Result<()> {
        if let Some(unknown) = options.data.first() {
            return Err(Error::spec(
                format!("{field}.options"),
                unknown,
                "is not an option of a bind mount",
            ));
        }
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        let source = absolute(&format!("{field}.source"), source)?;
        let destination = c_path(&format!("{field}.destination"), destination)?;
        let recursive = options.bind == Some(Recursive::Yes);
        let index = self.sources;
        self.sources += 1;
        open.push(Step::OpenSource {
            index,
            path: source.clone(),
            recursive,
            follow,
            idmap,
        });
        self.attach_source(index, source, destination, options.attributes, options.recursive);
        Ok(())
    }

    /// A bind mount of ours: not recursive, without mapped ids.
    fn bind_own(&mut self, source: CString, destination: CString, attributes: Attributes, open: &mut Vec<Step>) {
        let index = self.sources;
        self.sources += 1;
        open.push(Step::OpenSource {
            index,
            path: source.clone(),
            recursive: false,
            follow: true,
            idmap: None,
        });
        self.attach_source(index, source, destination, attributes, Attributes::default());
    }

    fn attach_source(
        &mut self,
        index: usize,
        source: CString,
        destination: CString,
        attributes: Attributes,
        mut below: Attributes,
    ) {
        if attributes.propagation == 0 && below.propagation == 0 {
            below.propagation = PRIVATE;
        }
        let bind = Bind {
            source: index,
            source_path: source,
            destination,
            attributes,
            recursive: below,
        };
        self.attach.push(Step::Bind(Box::new(bind)));
    }

    fn filesystem(
        &mut self,
        field: &str,
        mount: &Mount,
        kind: &str,
        options: Options,
        destination: &Path,
        used_by_others: bool,
    ) -> Result<()> {
        let path = c_path(&format!("{field}.destination"), destination)?;
        let mut attributes = options.attributes.set | options.recursive.set;
        if kind == "tmpfs" && used_by_others && attributes & RDONLY != 0 {
            // Others are still to be mounted or made below it.
            attributes &= !RDONLY;
            let sealed = Attributes {
                set: RDONLY,
                ..Attributes::default()
            };
            self.late.push(Step::LateAttributes {
                path: path.clone(),
                attributes: sealed,
            });
        }
        let mut parameters = Vec::new();
        for option in &options.data {
            let name = format!("{field}.options");
            parameters.push(match option.split_once('=') {
                Some((key, value)) => (c_string(&name, key)?, Some(c_string(&name, value)?)),
                None => (c_string(&name, option)?, None),
            });
        }
        let source = mount.source().as_deref().filter(|s| !s.as_os_str().is_empty());
        self.attach.push(Step::Mount(Box::new(Filesystem {
            kind: c_string(&format!("{field}.type"), kind)?,
            source: source.map(|s| c_path(&format!("{field}.source"), s)).transpose()?,
            parameters,
            attributes,
            propagation: options.attributes.propagation | options.recursive.propagation,
            destination: path,
        })));
        Ok(())
    }

    fn cgroup(
        &mut self,
        field: &str,
        view: View,
        options: Options,
        destination: &Path,
        open: &mut Vec<Step>,
    ) -> Result<()> {
        let path = c_path(&format!("{field}.destination"), destination)?;
        let filesystem = |kind: &str, parameters, attributes, destination| -> Result<Step> {
            Ok(Step::Mount(Box::new(Filesystem {
                kind: c_string("type", kind)?,
                source: Some(c_string("source", kind)?),
                parameters,
                attributes,
                propagation: PRIVATE,
                destination,
            })))
        };
        match view {
            View::Unified => self
                .attach
                .push(filesystem("cgroup2", Vec::new(), options.attributes.set, path)?),
            View::Bound(source) => {
                self.bind_own(source, path, options.attributes, open);
            }
            View::Tree { binds, links } => {
                let mode = vec![(c_string("mode", "mode")?, Some(c_string("mode", "0755")?))];
                self.attach.push(filesystem(
                    "tmpfs",
                    mode,
                    options.attributes.set & !RDONLY,
                    path.clone(),
                )?);
                for (name, source) in binds {
                    let below = c_path("destination", &destination.join(name))?;
                    self.bind_own(source, below, options.attributes, open);
                }
                for (name, target) in links {
                    self.attach.push(symlink(&target, &destination.join(name))?);
                }
                if options.attributes.set & RDONLY != 0 {
                    let sealed = Attributes {
                        set: RDONLY,
                        ..Attributes::default()
                    };
                    self.late.push(Step::LateAttributes {
                        path,
                        attributes: sealed,
                    });
                }
            }
        }
        Ok(())
    }
}

/// The map of a mount's ids: its own, or by the word `idmap` alone that of the container's user namespace.
fn idmap(field: &str, spec: &Spec, mount: &Mount, options: &Options, idmaps: &mut Idmaps) -> Result<Option<Idmap>> {
    let own = idmap::of(field, mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref())?;
    let maps = match (own, options.idmap) {
        (Some(own), _) => own,
        (None, None) => return Ok(None),
        (None, Some(_)) => idmap::of_container(spec)?.ok_or_else(|| {
            let rule = "needs mappings: the mount's own, or those of the container's user namespace";
            Error::spec(format!("{field}.options"), "idmap", rule)
        })?,
    };
    Ok(Some(Idmap {
        number: idmaps.number(maps),
        recursive: options.idmap == Some(Recursive::Yes),
    }))
}

/// The sources that the caller has resolved already: whoever puts a link there afterwards leads nobody.
fn resolved_sources(spec: &Spec) -> Result<Vec<String>> {
    let annotation = spec
        .annotations()
        .as_ref()
        .and_then(|a| a.get(RESOLVED_SOURCES_ANNOTATION));
    let Some(text) = annotation else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|_| {
        let field = format!("annotations[{RESOLVED_SOURCES_ANNOTATION}]");
        Error::spec(field, text, "must be a JSON list of paths")
    })
}

/// A link inside the root.
pub(crate) fn symlink(target: &str, path: &Path) -> Result<Step> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default();
    Ok(Step::Symlink {
        target: c_string("target", target)?,
        directory: c_path("path", parent)?,
        name: c_path("path", Path::new(name))?,
        path: c_path("path", path)?,
    })
}

/// Absolute and without "." and "..": a destination is a place in the root, however it is spelled.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => normal.push(name),
            std::path::Component::ParentDir => {
                normal.pop();
            }
            _ => {}
        }
    }
    normal
}
