package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/finch-reauth/reauth/db"
	"github.com/finch-reauth/reauth/worker"
)

type migrateCommand struct {
	databaseSettings
	logSettings
	Wait         time.Duration `default:"60s" help:"How long to wait for PostgreSQL and Temporal."`
	SkipTemporal bool          `help:"Leave Temporal's search attributes alone."`
}

func (m *migrateCommand) Run(ctx context.Context, s streams) error {
	logger := m.logger(s.err)
	ctx, cancel := context.WithTimeoutCause(ctx, m.Wait, errors.New("gave up waiting"))
	defer cancel()
	options, err := temporalOptions(nil, logger)
	if err != nil {
		return err
	}

	err = patiently(ctx, logger, "PostgreSQL", func(attempt context.Context) error {
		database, err := db.Open(attempt, m.DatabaseURL)
		if err != nil {
			return err
		}
		return database.Close()
	})
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	database, err := openDatabase(ctx, m.DatabaseURL)
	if err != nil {
		return err
	}
	defer database.Close()
	if err := database.Migrate(ctx); err != nil {
		return fmt.Errorf("migrating the database: %w", err)
	}
	logger.Info("the database is up to date")
	if m.SkipTemporal {
		return nil
	}

	c, err := client.NewLazyClient(options)
	if err != nil {
		return fmt.Errorf("setting up the Temporal client: %w", err)
	}
	defer c.Close()
	var refused error
	err = patiently(ctx, logger, "Temporal", func(attempt context.Context) error {
		err := worker.RegisterSearchAttributes(attempt, c, options.Namespace)
		if err != nil && notPermitted(err) {
			refused = err
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("registering Temporal's search attributes: %w", err)
	}
	if refused != nil {
		logger.Warn("Temporal does not let us register search attributes; "+attributesByHand, "error", refused.Error())
		return nil
	}
	logger.Info("Temporal's search attributes are registered")
	return nil
}
