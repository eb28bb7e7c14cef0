//! The role of a deployment's nodes, with rights on the rows only. A superuser can't test denied
//! rights, because Postgres denies it nothing.

use std::{fmt, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};

use super::DeploymentError;
use crate::{
    backends::{PostgresServer, chain},
    wait,
};

const CLEANUP: Duration = Duration::from_secs(5);

/// A role that we created. Dropping it removes it from given servers.
pub(super) struct Role {
    name: String,
    password: String,
    admin: PgConnectOptions,
    /// Whether to clean up when dropped.
    armed: bool,
}

impl fmt::Debug for Role {
    /// Omits the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Role").field(&self.name).finish()
    }
}

impl Role {
    /// Creates the role. Returns `None` if we may not create roles. The service then connects as
    /// the URL's user, which is no superuser.
    pub(super) async fn create(
        server: &PostgresServer,
        schema: &str,
    ) -> Result<Option<Self>, DeploymentError> {
        let mut admin = server.connect().await?;
        let may = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
        let may: bool = sqlx::query_scalar(may)
            .fetch_one(&mut admin)
            .await
            .map_err(refused("read the role"))?;
        if !may {
            return Ok(None);
        }
        let password = uuid::Uuid::new_v4().simple().to_string();
        // The schema's name is unique.
        let name = format!("{schema}_app");
        let statements = format!(
            "CREATE ROLE {name} LOGIN NOSUPERUSER PASSWORD '{password}'; \
             {}",
            session_layer::store::grants(schema, &name)
        );
        let role = Self {
            name,
            password,
            admin: server.connect_options().map_err(refused("read the URL"))?,
            armed: server.backend().is_none(),
        };
        sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(&mut admin)
            .await
            .map_err(refused("create the service's role"))?;
        // A failed close has no effect, because the server notices the end of the connection.
        let _closed = admin.close().await;
        Ok(Some(role))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the name and the password.
    pub(super) fn credentials(&self) -> (&str, &str) {
        (&self.name, &self.password)
    }

    /// Removes the role now.
    pub(super) async fn remove(mut self) -> Result<(), DeploymentError> {
        self.armed = false;
        self.drop_role().await.map_err(refused("drop the service's role"))
    }

    async fn drop_role(&self) -> sqlx::Result<()> {
        let mut admin = PgConnection::connect_with(&self.admin).await?;
        let name = &self.name;
        let statements = format!("DROP OWNED BY {name}; DROP ROLE {name}");
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut admin).await?;
        admin.close().await
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        // The timeout keeps a stopped server from delaying the run.
        let dropped = wait::blocking(tokio::time::timeout(CLEANUP, self.drop_role()));
        if let Some(Ok(Err(error))) = dropped {
            tracing::warn!(error = chain(&error), role = self.name, "a role could not be removed");
        }
    }
}

fn refused(doing: &'static str) -> impl FnOnce(sqlx::Error) -> DeploymentError {
    move |source| DeploymentError::Postgres { doing, source: source.into() }
}
