//! `process.user`: numbers where the configuration has them. Names are resolved by the starter, in the container's
//! own root, from the annotation that [`request`] writes; so are a numeric user's groups.

use cri::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::User;

use super::{Result, error::invalid};

/// The numbers that are known already.
pub(super) fn user(security: &LinuxContainerSecurityContext) -> Result<User> {
    let mut user = User::default();
    if let Some(uid) = &security.run_as_user {
        user.set_uid(id("run_as_user", uid.value)?);
    }
    if let Some(gid) = &security.run_as_group {
        user.set_gid(id("run_as_group", gid.value)?);
    }
    let groups = security
        .supplemental_groups
        .iter()
        .map(|g| id("supplemental_groups", *g))
        .collect::<Result<Vec<_>>>()?;
    user.set_additional_gids((!groups.is_empty()).then_some(groups));
    Ok(user)
}

/// Who the container runs as, in the form of an image's `USER`: the configuration's user and group, else the image's,
/// else root.
pub(super) fn request(security: &LinuxContainerSecurityContext, image: &ImageConfiguration) -> Result<String> {
    let user = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => id("run_as_user", uid.value)?.to_string(),
        (None, "") => String::new(),
        (None, name) => name.into(),
    };
    match &security.run_as_group {
        None if user.is_empty() => Ok(of_image(image)),
        None => Ok(user),
        Some(_) if user.is_empty() => Err(invalid(
            "run_as_group",
            "a group without run_as_user or run_as_username",
        )),
        Some(gid) => Ok(format!("{user}:{}", id("run_as_group", gid.value)?)),
    }
}

/// `Merge` adds the groups that the image's /etc/group gives the user; `Strict` does not.
pub(super) fn groups_policy(security: &LinuxContainerSecurityContext) -> Result<&'static str> {
    match SupplementalGroupsPolicy::try_from(security.supplemental_groups_policy) {
        Ok(SupplementalGroupsPolicy::Merge) => Ok("Merge"),
        Ok(SupplementalGroupsPolicy::Strict) => Ok("Strict"),
        Err(_) => Err(invalid(
            "supplemental_groups_policy",
            format_args!(
                "{} is neither Merge (0) nor Strict (1)",
                security.supplemental_groups_policy
            ),
        )),
    }
}

fn of_image(image: &ImageConfiguration) -> String {
    let user = image
        .config()
        .as_ref()
        .and_then(|c| c.user().clone())
        .unwrap_or_default();
    if user.is_empty() { "0".into() } else { user }
}

fn id(field: &str, value: i64) -> Result<u32> {
    u32::try_from(value).map_err(|_| invalid(field, format_args!("{value} is not an id (0 to {})", u32::MAX)))
}
