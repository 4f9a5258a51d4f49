package main

import (
	"errors"

	"github.com/spf13/cobra"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kubernetes/pkg/generated/openapi"
	"sigs.k8s.io/metrics-server/cmd/metrics-server/app/options"
	"sigs.k8s.io/metrics-server/pkg/api"
)

// newMetricsServerCommand is metrics-server with Kubernetes' description of its types: its own was generated for Kubernetes
// 1.33, under names that the libraries of this release do not look for.
func newMetricsServerCommand() *cobra.Command {
	opts := options.NewOptions()
	command := &cobra.Command{
		Use:  "metrics-server",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			command.SilenceUsage = true
			if err := errors.Join(opts.Validate()...); err != nil {
				return err
			}
			config, err := opts.ServerConfig()
			if err != nil {
				return err
			}
			namer := openapinamer.NewDefinitionNamer(api.Scheme)
			config.Apiserver.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
			config.Apiserver.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
			server, err := config.Complete()
			if err != nil {
				return err
			}
			return server.RunUntil(genericapiserver.SetupSignalHandler())
		},
	}
	for _, flags := range opts.Flags().FlagSets {
		command.Flags().AddFlagSet(flags)
	}
	return command
}
