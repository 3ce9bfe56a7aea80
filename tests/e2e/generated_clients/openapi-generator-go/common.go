package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"

	tasks "scenario/generated"
)

const absent = "00000000-0000-4000-8000-000000000000"

var ctx, user = context.Background(), os.Getenv("TASKS_USER")

type seen map[string]any

func step(name string, values seen) {
	values["step"] = name
	line, err := json.Marshal(values)
	check(err)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// problemOf returns the problem of a failed call, or ends the scenario if there is none.
func problemOf(err error) tasks.Problem {
	var rejected *tasks.GenericOpenAPIError
	if !errors.As(err, &rejected) {
		log.Fatalf("not rejected: %v", err)
	}
	problem, typed := rejected.Model().(tasks.Problem)
	if !typed {
		log.Fatalf("no problem: %s", rejected.Body())
	}
	return problem
}

func newClient() *tasks.APIClient {
	configuration := tasks.NewConfiguration()
	configuration.Servers = tasks.ServerConfigurations{{URL: os.Getenv("TASKS_URL")}}
	return tasks.NewAPIClient(configuration)
}
