// The scenario with openapi-generator's Go client, which uses only net/http.
package main

import (
	"fmt"
	"net/http"
	"time"

	tasks "scenario/generated"
)

func main() {
	api := newClient().TasksAPI

	draft := tasks.NewTaskCreate("Buy milk")
	draft.SetDescription("Two litres")
	task, response, err := api.CreateTask(ctx, user).TaskCreate(*draft).Execute()
	check(err)
	var title string = task.Title
	var description *string = task.Description.Get()
	var completedAt *time.Time = task.CompletedAt.Get()
	step("create", seen{
		"status": response.StatusCode, "title": title, "description": description,
		"completed": task.Completed, "completed_at": completedAt,
	})

	read, response, err := api.GetTask(ctx, user, task.Id).Execute()
	check(err)
	step("read", seen{
		"status": response.StatusCode, "title": read.Title, "same": read.Etag == task.Etag,
	})

	for number := 2; number <= 5; number++ {
		more := tasks.NewTaskCreate(fmt.Sprintf("Task %d", number))
		_, _, err = api.CreateTask(ctx, user).TaskCreate(*more).Execute()
		check(err)
	}
	titles, pages := walk(api.ListTasks(ctx, user))
	step("list", seen{"pages": pages, "titles": titles})

	change := func(patch *tasks.TaskPatch) (*tasks.Task, *http.Response) {
		changed, response, err := api.UpdateTask(ctx, user, task.Id).TaskPatch(*patch).Execute()
		check(err)
		return changed, response
	}
	patch := tasks.NewTaskPatch()
	patch.SetDescription("Three litres")
	after, response := change(patch)
	step("set", seen{
		"status": response.StatusCode, "title": after.Title, "description": after.Description.Get(),
	})
	patch = tasks.NewTaskPatch()
	patch.SetCompleted(true)
	after, response = change(patch)
	step("leave", seen{
		"status": response.StatusCode, "description": after.Description.Get(),
		"completed": after.Completed, "dated": after.CompletedAt.Get() != nil,
	})
	patch = tasks.NewTaskPatch()
	patch.SetDescriptionNil()
	after, response = change(patch)
	step("clear", seen{
		"status": response.StatusCode, "title": after.Title,
		"description": after.Description.Get(), "completed": after.Completed,
	})

	patch = tasks.NewTaskPatch()
	patch.SetTitle("Too late")
	_, _, err = api.UpdateTask(ctx, user, task.Id).TaskPatch(*patch).IfMatch(task.Etag).Execute()
	problem := problemOf(err)
	step("conflict", seen{
		"status": problem.Status, "type": problem.Type, "errors": len(problem.Errors),
	})

	_, _, err = api.CreateTask(ctx, user).TaskCreate(*tasks.NewTaskCreate("")).Execute()
	problem = problemOf(err)
	step("fault", seen{
		"status": problem.Status, "type": problem.Type, "pointer": problem.Errors[0].Pointer.Get(),
	})

	_, _, err = api.GetTask(ctx, user, absent).Execute()
	problem = problemOf(err)
	step("missing", seen{"status": problem.Status, "type": problem.Type})

	response, err = api.DeleteTask(ctx, user, task.Id).IfMatch(after.Etag).Execute()
	check(err)
	step("delete", seen{"status": response.StatusCode})
}

func walk(list tasks.ApiListTasksRequest) (titles []string, pages int) {
	list = list.Limit(2).Sort(tasks.TASKSORT_CREATED_AT).Order(tasks.SORTORDER_ASC)
	for {
		page, _, err := list.Execute()
		check(err)
		for _, each := range page.Items {
			titles = append(titles, each.Title)
		}
		pages++
		cursor := page.NextCursor.Get()
		if cursor == nil {
			return titles, pages
		}
		list = list.Cursor(*cursor)
	}
}
