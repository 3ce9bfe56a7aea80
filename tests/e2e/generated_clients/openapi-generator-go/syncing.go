// The operations of contract 1.2.0 with openapi-generator's Go client.
package main

import (
	"encoding/json"
	"strings"
	"time"

	tasks "scenario/generated"
)

const eggsId = "0198c5a2-0000-7000-8000-000000000001"

func main() {
	client := newClient()
	api, users := client.TasksAPI, client.UsersAPI

	_, _, err := client.ListsAPI.CreateList(ctx, user).
		TaskListCreate(*tasks.NewTaskListCreate("Groceries")).Execute()
	check(err)
	milk, _, err := api.CreateTask(ctx, user).TaskCreate(*tasks.NewTaskCreate("Milk")).Execute()
	check(err)
	tea, _, err := api.CreateTask(ctx, user).TaskCreate(*tasks.NewTaskCreate("Tea")).Execute()
	check(err)

	feed := client.ChangesAPI.ListChanges(ctx, user).Limit(2)
	pages, items, since := walk(feed)
	step("first walk", seen{"pages": pages, "items": items})

	eggs := tasks.NewTaskBatchCreate("Eggs")
	eggs.SetId(eggsId)
	completion := tasks.NewTaskBatchUpdate(milk.Id)
	completion.SetIfMatch(milk.Etag)
	completion.SetCompleted(true)
	batch := tasks.NewTaskBatch()
	batch.SetCreate([]tasks.TaskBatchCreate{*eggs})
	batch.SetUpdate([]tasks.TaskBatchUpdate{*completion})
	batch.SetDelete([]tasks.TaskBatchDelete{*tasks.NewTaskBatchDelete(tea.Id)})
	result, response, err := api.ChangeTasks(ctx, user).TaskBatch(*batch).Execute()
	check(err)
	created, updated := result.Created[0], result.Updated[0]
	step("batch", seen{
		"status": response.StatusCode, "created": []any{created.Title},
		"updated": []any{[]any{updated.Title, updated.Completed}},
		"deleted": []any{result.Deleted[0] == tea.Id},
	})

	pages, items, since = walk(feed.Since(since))
	step("later walk", seen{"pages": pages, "items": items})

	late := tasks.NewTaskBatchUpdate(milk.Id)
	late.SetIfMatch(milk.Etag)
	late.SetTitle("Too late")
	stale := tasks.NewTaskBatch()
	stale.SetUpdate([]tasks.TaskBatchUpdate{*late})
	_, _, err = api.ChangeTasks(ctx, user).TaskBatch(*stale).Execute()
	problem := problemOf(err)
	step("conflict", seen{
		"status": problem.Status, "type": problem.Type, "pointer": problem.Errors[0].Pointer.Get(),
	})

	exported, _, err := users.ExportUser(ctx, user).Execute()
	check(err)
	step("export", summary(exported))

	_, response, err = users.DeleteUser(ctx, user).Execute()
	check(err)
	step("erase", seen{"status": response.StatusCode})

	_, _, err = client.ChangesAPI.ListChanges(ctx, user).Since(since).Execute()
	problem = problemOf(err)
	step("expired", seen{"status": problem.Status, "type": problem.Type})

	eggs.SetCreatedAt(time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC))
	eggs.SetCompleted(true)
	eggs.SetCompletedAt(time.Date(2026, 11, 23, 8, 30, 0, 0, time.UTC))
	lost := tasks.NewTaskBatch()
	lost.SetCreate([]tasks.TaskBatchCreate{*eggs, *tasks.NewTaskBatchCreate("Milk")})
	result, response, err = api.ChangeTasks(ctx, user).TaskBatch(*lost).Execute()
	check(err)
	restored := result.Created[0]
	step("restore", seen{
		"status": response.StatusCode, "created_at": restored.CreatedAt.Unix(),
		"completed_at": restored.CompletedAt.Get().Unix(),
	})
}

// walk reads all changes from the token of a request on, or all of them without a token.
func walk(feed tasks.ApiListChangesRequest) (pages int, items []any, since string) {
	for {
		page, _, err := feed.Execute()
		check(err)
		for _, each := range page.Items {
			items = append(items, []any{each.Kind, each.Deleted, nameOf(each)})
		}
		pages, since = pages+1, page.NextSince
		if !page.HasMore {
			return pages, items, since
		}
		feed = feed.Since(since)
	}
}

func nameOf(change tasks.Change) any {
	if task := change.Task.Get(); task != nil {
		return task.Title
	}
	if list := change.List.Get(); list != nil {
		return list.Name
	}
	return nil
}

// summary returns the kinds of the lines of an export, and the number of lines in the last one.
func summary(exported string) seen {
	kinds, lines := []string{}, -1
	for _, line := range strings.Split(strings.TrimSpace(exported), "\n") {
		var parsed struct {
			Kind  string
			Lines int
		}
		check(json.Unmarshal([]byte(line), &parsed))
		kinds, lines = append(kinds, parsed.Kind), parsed.Lines
	}
	return seen{"kinds": kinds, "lines": lines}
}
