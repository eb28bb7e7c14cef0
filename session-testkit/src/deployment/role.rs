//! The role that a deployment's nodes connect as: rights on the rows, and no more. What a superuser is
//! never denied can't be tested as one.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::DeploymentError;
use crate::{
    backends::{PostgresServer, chain},
    wait,
};

const CLEANUP: Duration = Duration::from_secs(5);

/// A role of our own. Dropped on given servers, it is removed there.
#[derive(Debug)]
pub(super) struct Role {
    name: String,
    credentials: String,
    admin_url: String,
    /// Whether to clean up when dropped.
    armed: bool,
}

impl Role {
    /// `None` where we may not make roles: then the service connects as whom the URL names, who is no
    /// superuser.
    pub(super) async fn create(
        server: &PostgresServer,
        schema: &str,
    ) -> Result<Option<Self>, DeploymentError> {
        let mut admin = server.connect().await?;
        let may = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
        let may: bool = sqlx::query_scalar(may)
            .fetch_one(&mut admin)
            .await
            .map_err(refused("look at the role"))?;
        if !may {
            return Ok(None);
        }
        let password = uuid::Uuid::new_v4().simple().to_string();
        // The schema's name is ours, and one of a kind.
        let name = format!("{schema}_app");
        let statements = format!(
            "CREATE ROLE {name} LOGIN NOSUPERUSER PASSWORD '{password}'; \
             GRANT USAGE ON SCHEMA {schema} TO {name}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {name}"
        );
        let role = Self {
            credentials: format!("{name}:{password}"),
            name,
            admin_url: server.url().to_owned(),
            armed: server.backend().is_none(),
        };
        sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(&mut admin)
            .await
            .map_err(refused("make the service's role"))?;
        // It was only asked; the server sees it go.
        let _closed = admin.close().await;
        Ok(Some(role))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// `user:password`, as in a URL.
    pub(super) fn credentials(&self) -> &str {
        &self.credentials
    }

    /// Removes it now.
    pub(super) async fn remove(mut self) -> Result<(), DeploymentError> {
        self.armed = false;
        self.drop_it()
            .await
            .map_err(refused("drop the service's role"))
    }

    async fn drop_it(&self) -> sqlx::Result<()> {
        let mut admin = PgConnection::connect(&self.admin_url).await?;
        let name = &self.name;
        let statements = format!("DROP OWNED BY {name}; DROP ROLE {name}");
        sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(&mut admin)
            .await?;
        admin.close().await
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        // For others' sake; it may not hold up a run whose server is gone.
        let dropped = wait::blocking(tokio::time::timeout(CLEANUP, self.drop_it()));
        if let Some(Ok(Err(error))) = dropped {
            tracing::warn!(
                error = chain(&error),
                role = self.name,
                "a role was left behind"
            );
        }
    }
}

fn refused(doing: &'static str) -> impl FnOnce(sqlx::Error) -> DeploymentError {
    move |source| DeploymentError::Postgres {
        doing,
        source: source.into(),
    }
}
